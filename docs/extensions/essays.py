"""The directive `essay`: what a source file says at its head, as a part of the page.

    ```{essay} csrc/core/job_ring.h
    ```

So the protocol is written once, where those read it who change it.  What is indented there is a drawing.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_ROOT = Path(__file__).resolve().parents[2]
_MARKED = re.compile(r"`([^`]+)`|\*([^*\s][^*]*)\*")


def _head_of(path: Path) -> str:
    """The docstring of a Python file, or the comment with which a C file begins."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return ast.get_docstring(ast.parse(text)) or ""
    comment = re.match(r"(?://[^\n]*\n)*", text)[0]
    return re.sub(r"^// ?", "", comment, flags=re.MULTILINE)


def _blocks(text: str) -> Iterator[tuple[bool, list[str]]]:
    """The paragraphs and the drawings, and which it is.  A drawing may have empty lines."""
    block: list[str] = []
    is_drawing = False
    for line in text.rstrip().split("\n"):
        if not line:
            block.append(line)
            continue
        starts = (line.startswith("    ") != is_drawing) or (block[-1:] == [""] and not is_drawing)
        if starts and any(block):
            yield is_drawing, block
            block = []
        is_drawing = line.startswith("    ")
        block.append(line)
    yield is_drawing, block


def _paragraph(lines: list[str]) -> nodes.paragraph:
    text = " ".join(lines).strip()
    paragraph, end = nodes.paragraph(), 0
    for mark in _MARKED.finditer(text):
        paragraph += nodes.Text(text[end : mark.start()])
        paragraph += nodes.literal(text=mark[1]) if mark[1] else nodes.emphasis(text=mark[2])
        end = mark.end()
    paragraph += nodes.Text(text[end:])
    return paragraph


class Essay(SphinxDirective):
    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        path = _ROOT / self.arguments[0]
        if not path.is_file():
            raise self.error(f"there is no {self.arguments[0]}")
        self.env.note_dependency(str(path))
        found: list[nodes.Node] = []
        for is_drawing, lines in _blocks(_head_of(path)):
            if not is_drawing:
                found.append(_paragraph(lines))
                continue
            drawing = "\n".join(line.removeprefix("    ") for line in lines).strip("\n")
            found.append(nodes.literal_block(drawing, drawing, language="text"))
        if not found:
            raise self.error(f"{self.arguments[0]} says nothing at its head")
        return found


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("essay", Essay)
    return {"parallel_read_safe": True}
