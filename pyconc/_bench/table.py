"""A report as plain text, and the cells that the page shows, too."""

__all__ = ["circumstances", "disturbance", "headings", "number", "remarks", "tables", "text", "times_less"]


def number(figure):
    if figure is None:
        return "-"
    return f"{figure:.0f}" if abs(figure) >= 1000 else f"{figure:.2f}"


def spread(figure, rounds):
    """A figure with the least and the most of its rounds."""
    if len(rounds) < 2:
        return number(figure)
    return f"{number(figure)} ({number(min(rounds))} to {number(max(rounds))})"


def times_less(row):
    """How many times pyconc's figure fits into the other; a row's own ratio may be the other way round."""
    if not row["baseline"] or not row["candidate"]:
        return "-"
    ratio = row["baseline"] / row["candidate"]
    return f"{ratio:.0f}x" if ratio >= 100 else f"{ratio:.3g}x"


def verdict(reached):
    return "reached" if reached else "SHORT"


def disturbance(report):
    return (
        f"disturbed rounds, in which other programs used over a tenth of the CPUs: "
        f"{report['disturbed_rounds']} of {report['all_rounds']}"
    )


def circumstances(report):
    """Where and when it was measured, in a line for people; a report may lack some of it."""
    facts = report["environment"]
    cpu = ", ".join(filter(None, [facts.get("cpu"), facts.get("machine")]))
    parts = [
        "pyconc " + facts["pyconc"] if facts.get("pyconc") else None,
        "Python " + facts["python"] if "python" in facts else None,
        f"{facts['cpus']} CPUs ({cpu})" if "cpus" in facts else None,
        "Linux " + facts["linux"] if "linux" in facts else None,
        facts["priority"] + " priority" if facts.get("priority") else None,
        facts.get("date"),
    ]
    return ", ".join(filter(None, parts))


def headings(report):
    """Return the lines above all: the facts, and what the figures are not."""
    lines = [", ".join(f"{name} {value}" for name, value in report["environment"].items() if value is not None)]
    if report["control"]:
        lines.append("CONTROL: the standard library on both sides")
    if report["quick"]:
        lines.append("QUICK: too little work for the figures to mean anything")
    return lines


def remarks(report):
    """Return the lines below."""
    lines = [f"left out: {skipped}" for skipped in report["skipped"]]
    if report["contests"]:
        behind = [contest["contest"] for contest in report["contests"] if not contest["reached"]]
        lines.append(f"ahead of every rival: {'in all but ' + ', '.join(behind) if behind else 'yes'}")
    lines.append(disturbance(report))
    return lines


def tables(report, targets=False):
    """For each table: its title, and its lines of cells, the first of which names the columns."""
    for group in report["groups"]:
        rows = [row for row in report["rows"] if row["group"] == group["group"]]
        if rows:
            head = [f"median of {group['rounds']} (least to most)", group["baseline"], "pyconc", "unit", "less"]
            lines = [head + ["target", ""] * targets]
            for row in rows:
                cells = [
                    row["row"],
                    spread(row["baseline"], row["baseline_rounds"]),
                    spread(row["candidate"], row["candidate_rounds"]),
                    row["unit"],
                    times_less(row),
                ]
                lines.append(cells + [row["target"], verdict(row["reached"])] * targets)
            yield f"{group['group']}: {group['question']}", lines
        # Contestants differ from contest to contest: each has a column wherever one of them takes part.
        contests = [contest for contest in report["contests"] if contest["group"] == group["group"]]
        if contests:
            names = list(dict.fromkeys(name for contest in contests for name in contest["figures"] if name != "pyconc"))
            names.append("pyconc")
            lines = [["median", *names, "unit", "ahead"]]
            for contest in contests:
                figures = [number(contest["figures"].get(name)) for name in names]
                lines.append([contest["contest"], *figures, contest["unit"], f"{contest['ratio']:.1f}x"])
            yield f"{group['group']}, beside other libraries", lines


def text(report, targets):
    parts = headings(report)
    for title, lines in tables(report, targets):
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        parts += ["", title, "-" * len(title)]
        for line in lines:
            # The first column is words, and so are the units and what follows a target.
            cells = [
                cell.ljust(width) if column == 0 or lines[0][column] in ("unit", "") else cell.rjust(width)
                for column, (cell, width) in enumerate(zip(line, widths, strict=True))
            ]
            parts.append("  ".join(cells).rstrip())
    return "\n".join([*parts, "", *remarks(report)])
