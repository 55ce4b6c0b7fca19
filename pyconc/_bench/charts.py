"""A report as charts, drawn by matplotlib: one for each group, and one for each contest, below each other.

A row's bar says how many times its baseline's figure holds pyconc's, on a scale of powers of ten, from 1, which is as
fast; all groups have the same scale.  The thin line is what the rounds would allow, from the least to the most.  A
contest's bars are times.  Text in an SVG stays text, in whatever font its reader has.
"""

import io

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter, NullLocator

from pyconc._bench import table

__all__ = ["draw"]

# Background, text, small print, lines, pyconc's bars, what falls behind, the others' bars.
LIGHT = {
    "back": "#ffffff",
    "text": "#1f2328",
    "faint": "#59636e",
    "line": "#d1d9e0",
    "ours": "#0969da",
    "slow": "#bc4c00",
    "others": "#afb8c1",
}
DARK = {
    "back": "#0d1117",
    "text": "#e6edf3",
    "faint": "#9198a1",
    "line": "#3d444d",
    "ours": "#4493f8",
    "slow": "#db6d28",
    "others": "#59636e",
}
BAR_INCHES = 0.3
SPACE_INCHES = 1
PAD_INCHES = 0.1
FOOT_INCHES = 0.5
WIDTH_INCHES = 11


def _panels(report):
    """For each chart: its title, what its scale says, whether that is ratios, and its bars.

    A bar is a name, a length, the least and the most that it might be, a label, and a colour.
    """
    for group in report["groups"]:
        bars = [_ratio_bar(row) for row in report["rows"] if row["group"] == group["group"] and _has_ratio(row)]
        if bars:
            yield group["group"], f"times less than {_named(group['baseline'])}", True, bars
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
                yield f"{group['group']}, {contest['contest']}", contest["unit"], False, bars


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
    label = f"{table.times_less(row)}: {figures}"
    return row["row"], ratio, least, most, label, "ours" if ratio >= 1 else "slow"


def draw(report, file_format, dark):
    """The picture as bytes, in "svg" or "png"."""
    with matplotlib.rc_context({"svg.hashsalt": "pyconc", "svg.fonttype": "none"}):
        return _draw(report, file_format, DARK if dark else LIGHT)


def _draw(report, file_format, colours):
    panels = list(_panels(report)) or [("nothing to compare", "", True, [])]
    heights = [(len(bars) or 1) * BAR_INCHES for *_, bars in panels]
    height = sum(heights) + len(panels) * SPACE_INCHES + FOOT_INCHES
    figure = Figure((WIDTH_INCHES, height), facecolor=colours["back"], layout="constrained")
    figure.get_layout_engine().set(h_pad=PAD_INCHES)
    axes = figure.subplots(len(panels), squeeze=False, height_ratios=heights)[:, 0]
    every_ratio = [bar for _, _, is_ratio, bars in panels for bar in bars if is_ratio]
    for each, (title, scale, is_ratio, bars) in zip(axes, panels, strict=True):
        each.set_facecolor(colours["back"])
        each.set_title(title, loc="left", color=colours["text"], fontsize=11, fontweight="bold")
        each.set_xlabel(scale, loc="left", color=colours["faint"], fontsize=9)
        start = 1 if is_ratio else min(length for _, length, *_ in bars) / 3
        _scale(each, is_ratio, start, every_ratio if is_ratio else bars)
        _draw_bars(each, start, bars, colours)
        if is_ratio:
            each.axvline(1, color=colours["text"], linewidth=1)
        each.tick_params(colors=colours["text"], labelsize=9, length=0, which="both")
        each.grid(axis="x", color=colours["line"], linewidth=0.6)
        each.set_axisbelow(True)
        for spine in each.spines.values():
            spine.set_visible(False)
    foot = "\n".join([table.circumstances(report), table.disturbance(report)])
    figure.supxlabel(foot, x=0.01, ha="left", fontsize=8.5, color=colours["faint"])
    file = io.BytesIO()
    figure.savefig(file, format=file_format, dpi=150, metadata={"Date": None} if file_format == "svg" else None)
    return file.getvalue()


def _scale(axes, is_ratio, start, bars):
    """Powers of ten that hold all of these bars, and their labels beside them."""
    low = min([start, *(least for _, _, least, *_ in bars)])
    high = max([start, *(most for _, _, _, most, *_ in bars)])
    axes.set_xscale("log")
    axes.set_xlim(low / 1.1, (high / low) ** 1.45 * low * 1.5)
    steps = (1, 2, 5) if high / low < 50 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=steps, numticks=20))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}x" if is_ratio else f"{value:,g}")


def _draw_bars(axes, start, bars, colours):
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
    axes.set_ylim(len(bars) - 0.4, -0.6)
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars])
