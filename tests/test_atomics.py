"""Every access to an atomic says why its order is enough, and labels name their partners on both sides.

A label such as `R8:` stands at a release and names the acquire that it pairs with, `A8`, and the function where that
is; the comment there does the same.  One acquire may have several releases.  Any other access has its reason beside it,
or its field says at its declaration that it is `relaxed everywhere`, and why.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
C_FILES = sorted(path for path in (ROOT / "csrc").rglob("*") if path.suffix in (".c", ".h"))

pytestmark = pytest.mark.skipif(not C_FILES, reason="the tests were taken away from the sources")

NEAR = 5  # lines above an access, within its function, in which its reason stands

# What a reason speaks of: a label, an order, who else writes or reads, or the lock that orders them.
REASON = re.compile(
    r"\b[RA]\d+\b|\b(?:relaxed|acquires?|releases?|consistent|ordered|orders|publish\w*|hint|GIL|lock)\b", re.IGNORECASE
)
LABEL = re.compile(r"//\s*([RA]\d+)[:,] ")
ACCESS = re.compile(r"\batomic_\w+_explicit\b")


@dataclass(frozen=True)
class Source:
    name: str
    lines: list[str]

    def function_at(self, number: int) -> str:
        """The function that a line belongs to: its name begins a line, and its brace ends one."""
        for line in reversed(self.lines[: number + 1]):
            if match := re.match(r"(?:static inline .*?)?(\w+)\(", line):
                return match[1]
            if line.startswith("}"):
                break
        return "?"

    def comment_at(self, number: int) -> str:
        """The whole comment that a line begins."""
        text = [self.lines[number].partition("//")[2]]
        for line in self.lines[number + 1 :]:
            if not re.match(r"\s*//", line):
                break
            text.append(line.partition("//")[2])
        return " ".join(part.strip() for part in text)

    def accesses(self) -> Iterator[int]:
        return (number for number, line in enumerate(self.lines) if ACCESS.search(line.partition("//")[0]))

    def statement_at(self, number: int) -> str:
        """What is called at a line, up to the end of its statement."""
        text = ""
        for line in self.lines[number : number + 4]:
            text += line.partition("//")[0].strip() + " "
            if text.rstrip().endswith((";", "{")):
                break
        return text

    def comments_near(self, number: int) -> Iterator[str]:
        """The comments beside an access, on its lines or above them, the function's own included."""
        for line in self.lines[number : number + 3]:
            yield line.partition("//")[2]
            if line.partition("//")[0].rstrip().endswith((";", "{")):
                break
        above = number - 1
        while above >= 0 and not self.lines[above].startswith("}"):
            # A comment is as near as its last line.
            is_comment = re.match(r"\s*//", self.lines[above])
            if number - above > NEAR and not is_comment:
                break
            yield self.lines[above].partition("//")[2]
            above -= 1


def read(path: Path) -> Source:
    return Source(str(path.relative_to(ROOT)), path.read_text().splitlines())


def relaxed_everywhere(sources: list[Source]) -> set[str]:
    """The atomic fields whose declaration says so."""
    found = set()
    for source in sources:
        for number, line in enumerate(source.lines):
            match = re.match(r"\s*(?:_Alignas\(\d+\) )?_Atomic[^;]*?(\w+)(?:\[\w*\])?;", line)
            if match and "relaxed everywhere" in source.comment_at(number):
                found.add(match[1])
    return found


def without_reason(sources: list[Source]) -> set[str]:
    fields = relaxed_everywhere(sources)
    found = set()
    for source in sources:
        for number in source.accesses():
            call = source.statement_at(number)
            names = re.findall(r"(?:->|\.|&)(\w+)\s*,", call)
            orders = set(re.findall(r"memory_order_(\w+)", call))
            if orders == {"relaxed"} and names and names[0] in fields:
                continue
            if not any(REASON.search(comment) for comment in source.comments_near(number)):
                found.add(f"{source.name}:{source.function_at(number)}")
    return found


def labels(sources: list[Source]) -> dict[str, list[tuple[str, str, str]]]:
    """Where each label stands: (place, function, comment)."""
    found: dict[str, list[tuple[str, str, str]]] = {}
    for source in sources:
        for number, line in enumerate(source.lines):
            if match := LABEL.search(line):
                place = f"{source.name}:{number + 1}"
                found.setdefault(match[1], []).append((place, source.function_at(number), source.comment_at(number)))
    return found


def wrong_labels(sources: list[Source]) -> list[str]:
    found = labels(sources)
    wrong = []
    for label, places in found.items():
        for place, _, comment in places:
            partners = {name for name in re.findall(r"\b[RA]\d+\b", comment) if name[0] != label[0]}
            if not partners:
                wrong.append(f"{place}: {label} names no partner")
            for partner in partners - found.keys():
                wrong.append(f"{place}: {label} names {partner}, which stands nowhere")
            for partner in partners & found.keys():
                if not any(re.search(rf"\b{label}\b", text) for _, _, text in found[partner]):
                    wrong.append(f"{place}: {label} names {partner}, which does not name {label}")
            for partner, function in re.findall(r"\b([RA]\d+) in (\w+)\(\)", comment):
                if function not in {there for _, there, _ in found.get(partner, [])}:
                    wrong.append(f"{place}: {partner} is not in {function}()")
    return wrong


# --- The tests --------------------------------------------------------------------------------------------------------


SOURCES = [read(path) for path in C_FILES]


def test_an_access_says_why_its_order_is_enough() -> None:
    assert sorted(without_reason(SOURCES)) == [], "no reason within a few lines"


def test_labels_name_their_partners_on_both_sides() -> None:
    assert wrong_labels(SOURCES) == []


def test_there_is_something_to_look_at() -> None:
    assert sum(1 for source in SOURCES for _ in source.accesses()) > 50
    assert len(labels(SOURCES)) > 10


def source(text: str) -> list[Source]:
    return [Source("x.c", text.splitlines())]


def test_a_missing_reason_is_noticed() -> None:
    access = "    atomic_store_explicit(&x->a, 1, memory_order_relaxed);\n"
    assert without_reason(source(f"void\nf(x *x)\n{{\n{access}}}\n")) == {"x.c:f"}
    assert without_reason(source(f"void\nf(x *x)\n{{\n    // A nice number.\n{access}}}\n")) == {"x.c:f"}
    assert without_reason(source(f"void\nf(x *x)\n{{\n    // Relaxed: a hint.\n{access}}}\n")) == set()
    assert without_reason(source(f"// Relaxed: a hint.\nvoid\ng(void)\n{{\n}}\nvoid\nf(x *x)\n{{\n{access}}}\n")) == {
        "x.c:f"
    }
    declared = "struct x {\n    _Atomic int a;  // a hint, so\n                    // relaxed everywhere\n};\n"
    assert without_reason(source(f"{declared}void\nf(x *x)\n{{\n{access}}}\n")) == set()
    release = access.replace("relaxed", "release")
    assert without_reason(source(f"{declared}void\nf(x *x)\n{{\n{release}}}\n")) == {"x.c:f"}


def test_a_lonely_label_is_noticed() -> None:
    both = (
        "void\nf(void)\n{\n    // R1: pairs with A1 in g().\n}\nvoid\ng(void)\n{\n    // A1: pairs with R1 in f().\n}\n"
    )
    assert wrong_labels(source(both)) == []
    for old, new in [
        ("A1: pairs with R1 in f()", "A1: of course"),
        ("A1: pairs", "A2: pairs"),
        ("A1 in g()", "A1 in f()"),
    ]:
        assert wrong_labels(source(both.replace(old, new)))
