"""A report as charts, drawn by matplotlib: one for each group, and one for each contest, below each other.

A row's bar says how many times its baseline's figure holds pyconc's, on a scale of powers of ten, from 1, which is as
fast.  The thin line is what the rounds would allow, from the least to the most.  A contest's bars are times.
"""

import io

import matplotlib
from matplotlib.figure import Figure

from pyconc._bench import table

# Background, text, lines, pyconc's bars, what falls behind, the others' bars.
LIGHT = {
    "back": "#ffffff",
    "text": "#1f2328",
    "line": "#d1d9e0",
    "ours": "#0969da",
    "slow": "#bc4c00",
    "others": "#afb8c1",
}
DARK = {
    "back": "#0d1117",
    "text": "#e6edf3",
    "line": "#3d444d",
    "ours": "#4493f8",
    "slow": "#db6d28",
    "others": "#59636e",
}
BAR_INCHES = 0.3
SPACE_INCHES = 1.1
WIDTH_INCHES = 11


def _panels(report):
    """For each chart: its title, what its scale says, and its bars: name, length, least, most, label, colour."""
    for group in report["groups"]:
        bars = [_ratio_bar(row) for row in report["rows"] if row["group"] == group["group"] and _has_ratio(row)]
        if bars:
            yield group["group"], f"times less than {_named(group['baseline'])}", bars
        for contest in report["contests"]:
            if contest["group"] == group["group"]:
                bars = [
                    (
                        name,
                        figure,
                        min(rounds),
                        max(rounds),
                        table.number(figure),
                        "ours" if name == "pyconc" else "others",
                    )
                    for (name, figure), rounds in zip(
                        contest["figures"].items(), contest["rounds"].values(), strict=True
                    )
                ]
                yield f"{group['group']}, {contest['contest']}", contest["unit"], bars


def _named(baseline):
    return "the standard library" if baseline == "standard" else baseline


def _has_ratio(row):
    return bool(row["baseline"] and row["candidate"])


def _ratio_bar(row):
    ratio = row["baseline"] / row["candidate"]
    baseline, candidate = row["baseline_rounds"], row["candidate_rounds"]
    least = min(baseline) / max(candidate)
    most = max(baseline) / (min(candidate) or row["candidate"])
    figures = f"{table.number(row['baseline'])} to {table.number(row['candidate'])} {row['unit']}"
    label = f"{table.times_less(row)}   {figures}"
    return row["row"], ratio, least, most, label, "ours" if ratio >= 1 else "slow"


def draw(report, file_format, dark):
    """The picture as bytes, in "svg" or "png"."""
    colours = DARK if dark else LIGHT
    panels = list(_panels(report)) or [("nothing to compare", "", [])]
    heights = [len(bars) * BAR_INCHES + SPACE_INCHES for _, _, bars in panels]
    figure = Figure((WIDTH_INCHES, sum(heights)), facecolor=colours["back"], layout="constrained")
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    for each, (title, scale, bars) in zip(axes, panels, strict=True):
        _draw_panel(each, title, scale, bars, colours)
    file = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "pyconc"}):
        figure.savefig(file, format=file_format, dpi=150, metadata={"Date": None} if file_format == "svg" else None)
    return file.getvalue()


def _draw_panel(axes, title, scale, bars, colours):
    axes.set_facecolor(colours["back"])
    axes.set_title(title, loc="left", color=colours["text"], fontsize=11, fontweight="bold")
    axes.set_xlabel(scale, color=colours["text"], fontsize=9)
    axes.set_xscale("log")
    lengths = [length for _, length, *_ in bars]
    is_ratio = any(label.partition(" ")[0].endswith("x") for *_, label, _ in bars)
    start = 1 if is_ratio else min(lengths, default=1) / 3
    for place, (_, length, least, most, label, colour) in enumerate(bars):
        axes.barh(place, length - start, left=start, height=0.7, color=colours[colour])
        axes.plot([least, most], [place, place], color=colours["text"], linewidth=1, alpha=0.7)
        axes.annotate(
            label,
            (max(length, most, start), place),
            xytext=(6, 0),
            textcoords="offset points",
            va="center",
            fontsize=8.5,
            color=colours["text"],
        )
    low = min([start, *(least for _, _, least, *_ in bars)])
    high = max([start, *(most for _, _, _, most, *_ in bars)])
    axes.set_xlim(low / 1.1, (high / low) ** 1.45 * low * 1.5)  # room for the labels
    if is_ratio:
        axes.axvline(1, color=colours["text"], linewidth=1)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
    axes.invert_yaxis()
    axes.tick_params(colors=colours["text"], labelsize=9, length=0, which="both")
    axes.grid(axis="x", color=colours["line"], linewidth=0.6)
    axes.set_axisbelow(True)
    for spine in axes.spines.values():
        spine.set_visible(False)
