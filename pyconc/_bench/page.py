"""A report as an HTML page that needs no other file: the charts for the reader's background, and the tables."""

import base64
from html import escape

from pyconc._bench import table

__all__ = ["text"]

# The backgrounds are the charts' own.
STYLE = """
:root { color-scheme: light dark; }
body { background: light-dark(#ffffff, #0d1117); color: light-dark(#1f2328, #e6edf3); }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 70rem; margin: 2rem auto; padding: 0 1rem; }
h1, h2 { line-height: 1.2; }
img { width: 100%; height: auto; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: 0.25rem 0.75rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; padding-left: 0; }
.facts, .remarks { color: light-dark(#57606a, #9198a1); }
"""


def _source(svg):
    return f"data:image/svg+xml;base64,{base64.b64encode(svg).decode('ascii')}"


def _cells(tag, line):
    return "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in line)


def _table(title, lines):
    head, *body = lines
    rows = "\n".join(f"<tr>{_cells('td', line)}</tr>" for line in body)
    return (
        f"<h2>{escape(title)}</h2>\n"
        f'<div class="wide"><table>\n<thead><tr>{_cells("th", head)}</tr></thead>\n'
        f"<tbody>\n{rows}\n</tbody>\n</table></div>"
    )


def text(report, light, dark):
    """The page; light, dark: the charts as SVG."""
    facts = "<br>\n".join(map(escape, table.headings(report)))
    remarks = "<br>\n".join(map(escape, table.remarks(report)))
    tables = "\n".join(_table(title, lines) for title, lines in table.tables(report))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>pyconc beside the standard library</title>
<style>{STYLE}</style>
</head>
<body>
<h1>pyconc beside the standard library</h1>
<p class="facts">{facts}</p>
<picture>
<source media="(prefers-color-scheme: dark)" srcset="{_source(dark)}">
<img src="{_source(light)}" alt="How many times faster each piece of work is; the tables below have the figures.">
</picture>
{tables}
<p class="remarks">{remarks}</p>
</body>
</html>
"""
