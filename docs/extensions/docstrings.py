"""Turns the package's docstrings, which are plain text, into reStructuredText.

A docstring has a sentence, paragraphs, lines such as `timeout: seconds to wait.` for parameters and fields, and an
example as an interpreter session, which is indented.  Names stand between single backticks, and a star is a star.
"""

import inspect
import re
from collections.abc import Iterator
from typing import Any

from sphinx.application import Sphinx

_LITERAL = re.compile(r"``[^`]+``|`[^`]+`")
_SPECIAL = re.compile(r"([*|\\]|(?<=\w)_(?!\w))")
_ITEM = re.compile(r"(\*{0,2}[a-z]\w*(?:, \*{0,2}[a-z]\w*)*): (.*)")
# Where a line has more than one item, or ends what it says of one.
_NEXT = re.compile(r"(?<=[.)]) (?=(?:[a-z]\w*: |Raises ))")


def _convert_inline(text: str) -> str:
    """Double the backticks, and escape what reStructuredText would take for its own."""
    parts, end = [], 0
    for literal in _LITERAL.finditer(text):
        parts += [_SPECIAL.sub(r"\\\1", text[end : literal.start()]), f"``{literal[0].strip('`')}``"]
        end = literal.end()
    return "".join([*parts, _SPECIAL.sub(r"\\\1", text[end:])])


def _names_of(thing: Any) -> set[str]:
    """What a line of a docstring may explain: parameters, fields and attributes."""
    try:
        parameters = set(inspect.signature(thing).parameters)
    except (TypeError, ValueError):
        parameters = set()
    return parameters | {name for name in dir(thing) if isinstance(thing, type)}


def _explains(line: str, names: set[str]) -> re.Match[str] | None:
    item = _ITEM.match(line)
    return item if item and names.intersection(re.findall(r"\w+", item[1])) else None


def _convert_paragraph(lines: list[str], names: set[str]) -> Iterator[str]:
    """Make a definition list of the lines that explain names, and leave the others as they are."""
    in_item = False
    previous = "."
    if any(_explains(line, names) for line in lines):
        lines = _NEXT.sub("\n", "\n".join(lines)).split("\n")
    # All at once: a literal may go on in the next line.
    for line, converted in zip(lines, _convert_inline("\n".join(lines)).split("\n")):
        item = _explains(line, names)
        if item and previous.endswith((".", ")", ":")):
            yield ""
            yield ", ".join(f"``{name}``" for name in item[1].split(", "))
            yield "    " + converted.partition(": ")[2]
            in_item = True
        elif in_item and line.startswith("Raises "):
            yield from ("", converted)
            in_item = False
        else:
            yield "    " * in_item + converted
        previous = line
    yield ""


def _paragraphs(lines: list[str]) -> Iterator[list[str]]:
    paragraph: list[str] = []
    for line in [*lines, ""]:
        if line:
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []


def _convert(lines: list[str], thing: Any) -> Iterator[str]:
    names = _names_of(thing)
    in_code = False
    for paragraph in _paragraphs(lines):
        if paragraph[0].startswith("    "):
            if not in_code:
                yield from (".. code-block:: pycon", "")
            yield from (*paragraph, "")
            in_code = True
            continue
        in_code = False
        yield from _convert_paragraph(paragraph, names)


def _process(app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    lines[:] = _convert(lines, thing)


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("autodoc-process-docstring", _process)
    return {"parallel_read_safe": True}
