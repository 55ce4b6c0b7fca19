"""What a release is made of agrees: the version, the changelog, the wheels, and what is asked of reporters."""

import re
import sys
from pathlib import Path

import pytest

import pyconc

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"

pytestmark = pytest.mark.skipif(not GITHUB.exists(), reason="the tests were taken away from the sources")


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


def test_the_version_stands_in_one_place():
    line = f'__version__ = "{pyconc.__version__}"'
    assert [path for path in ROOT.glob("pyconc/**/*.py") if line in path.read_text()] == [ROOT / "pyconc/__init__.py"]
    assert 'dynamic = ["version"]' in text("pyproject.toml")
    assert not re.search(r"^version = \"", text("pyproject.toml"), re.MULTILINE)


def test_the_changelog_has_the_form_of_keep_a_changelog():
    """The newest first, each with its date; below each, what kinds of changes there are."""
    first, *others = re.findall(r"^## (.*)$", text("CHANGES.md"), re.MULTILINE)
    assert first == "[Unreleased]"
    for version in others:
        assert re.fullmatch(r"\[\d+\.\d+\.\d+\] - \d{4}-\d\d-\d\d", version)
    kinds = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}
    beside = {"Where it differs from the standard library"}
    assert set(re.findall(r"^### (.*)$", text("CHANGES.md"), re.MULTILINE)) <= kinds | beside


def test_there_is_a_wheel_for_each_interpreter_that_is_named():
    named = re.findall(r"Python :: 3\.(\d+)", text("pyproject.toml"))
    built = re.search(r"^build = \[(.*)\]$", text("pyproject.toml"), re.MULTILINE).group(1)
    matrix = re.search(r"^ *python: \[(.*)\]$", text(".github/workflows/release.yml"), re.MULTILINE).group(1)
    assert built == ", ".join(f'"cp3{minor}-*"' for minor in named)
    assert matrix == ", ".join(f"cp3{minor}" for minor in named)
    assert f"cp3{sys.version_info.minor}-*" in built


def test_a_release_is_published_without_a_secret():
    workflow = text(".github/workflows/release.yml")
    assert "secrets." not in workflow
    assert "password" not in re.sub(r"#.*", "", workflow)
    assert workflow.count("id-token: write") == 1


def test_who_reports_a_fault_is_asked_for_a_dump():
    template = text(".github/ISSUE_TEMPLATE/bug.yml")
    assert "python -m pyconc dump" in template
    assert "python -m pyconc --version" in template
