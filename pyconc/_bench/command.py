"""The command line of `python -m pyconc bench`: what is measured, and where the figures go."""

import argparse
import concurrent.futures
import functools
import importlib
import importlib.util
import json
import os
import platform
import subprocess
import sys
import time
import types

import pyconc
from pyconc._bench import harness, progress, table

__all__ = ["GROUPS", "MORE_GROUPS", "main"]

PROG = "python -m pyconc bench"
GROUPS = ["threads", "processes", "coroutines", "data", "deadlines", "shared", "workloads"]
# Not of everyday interest, so not part of `all`.
MORE_GROUPS = ["cluster", "joblib", "flood", "neighbours"]
CHARTS = (".svg", ".png")


def _output(text, suffixes=()):
    """A file that can be written: that should be known before minutes of work."""
    if suffixes and os.path.splitext(text)[1] not in suffixes:
        raise argparse.ArgumentTypeError(f"{text!r} does not end in {' or '.join(suffixes)}")
    folder = os.path.dirname(os.path.abspath(text))
    if not os.path.isdir(folder):
        raise argparse.ArgumentTypeError(f"there is no folder {folder!r}")
    if not os.access(text if os.path.exists(text) else folder, os.W_OK) or os.path.isdir(text):
        raise argparse.ArgumentTypeError(f"{text!r} cannot be written")
    return text


def _report_in(text):
    """What --json has written to this file."""
    try:
        with open(text, encoding="utf-8") as file:
            report = json.load(file)
        table.text(report, targets=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(f"{text!r} cannot be read: {error.strerror}") from None
    except (ValueError, LookupError, TypeError, AttributeError):
        raise argparse.ArgumentTypeError(f"{text!r} is not what --json writes") from None
    return report


def _json_output(text):
    return text if text == "-" else _output(text)


def _positive(text):
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("it must be at least 1")
    return number


def parse(arguments):
    parser = argparse.ArgumentParser(
        PROG,
        description="Compare pyconc with the standard library, and with other libraries, on this machine.  Each row "
        "does the same work with both, in turns, and shows the medians of all rounds, and the least and the most.",
    )
    option = parser.add_argument
    choices = [*GROUPS, *MORE_GROUPS, "all"]
    option("groups", nargs="*", metavar="group", help=f"what to measure: {', '.join(choices)} (all)")
    option("--rivals", action="store_true", help="compare with the other libraries that are installed, too")
    option("--json", metavar="FILE", type=_json_output, help="write the figures as JSON; - is standard output")
    option(
        "--plot",
        metavar="FILE",
        type=functools.partial(_output, suffixes=CHARTS),
        help="draw the figures, for a light and for a dark background: FILE.svg and FILE-dark.svg, or .png",
    )
    option("--html", metavar="FILE", type=_output, help="write a page with the charts and the table")
    option(
        "--from",
        dest="report",
        metavar="FILE",
        type=_report_in,
        help="measure nothing: show, or draw, what --json has written; groups and --row choose from it",
    )
    option("--rounds", type=_positive, help="measurements of each row, in place of those that its group chooses")
    option("--row", action="append", metavar="WORDS", help="only rows with WORDS in their name; may be repeated")
    option("--quick", action="store_true", help="hardly any work: a smoke test, not a figure")
    option("--calm", action="store_true", help="measure disturbed rounds again, within reason (see the last line)")
    option("--targets", action="store_true", help="show what each row is to reach")
    option("--check", action="store_true", help="exit with status 1 if a row falls short of that")
    option("--idle-seconds", type=_positive, default=10, help="how long idle workers are watched (%(default)s)")
    option(
        "--control",
        action="store_true",
        help="the standard library on both sides: ratios other than 1 are errors of measurement",
    )
    options = parser.parse_args(arguments)
    for group in options.groups:
        if group not in choices:
            parser.error(f"there is no group {group!r}; there are {', '.join(choices)}")
    if options.report is not None:
        options.groups = options.groups or ["all"]
    elif not options.groups or "all" in options.groups:
        options.groups = [*GROUPS, *(group for group in MORE_GROUPS if group in options.groups)]
    if (options.plot or options.html) and importlib.util.find_spec("matplotlib") is None:
        parser.error("--plot and --html need matplotlib: pip install 'pyconc[plot]'")
    options.candidate = concurrent.futures if options.control else pyconc
    return options


def main(arguments: list[str]) -> int:
    options = parse(arguments)
    if options.report is not None:
        report = _chosen(options.report, options)
        if report["rows"] or report["contests"]:
            return _show(report, options)
        print(f"{PROG}: the report has no such row", file=sys.stderr)
        return 1
    groups = {name: importlib.import_module(f"pyconc._bench.{name}") for name in dict.fromkeys(options.groups)}
    entries = [(name, entry) for name, group in groups.items() for entry in _entries(group, options)]
    if not entries:
        asked = " or ".join(map(repr, options.row or ["a library to compare with"]))
        for skipped in harness.SKIPPED:
            print(f"{PROG}: left out: {skipped}", file=sys.stderr)
        print(f"{PROG}: no row has {asked} in its name", file=sys.stderr)
        return 1
    stop = _measure(entries, groups, options)
    status = _show(_report(entries, groups, options), options)
    if stop is not None:
        raise stop
    return status if all(entry.is_measured for _, entry in entries) else 1


def _show(report, options):
    """Print the table, write what else was asked for, and tell the exit status."""
    # JSON on standard output sends the table to standard error.
    print(table.text(report, options.targets or options.check), file=sys.stderr if options.json == "-" else sys.stdout)
    try:
        _write(report, options)
    except OSError as error:
        print(f"{PROG}: {error.filename} cannot be written: {error.strerror}", file=sys.stderr)
        return 1
    return 1 if options.check and not all(row["reached"] for row in report["rows"] + report["contests"]) else 0


def _chosen(report, options):
    """The part of a report whose groups and rows were asked for."""

    def is_chosen(group, name):
        of_group = "all" in options.groups or group in options.groups
        return of_group and (not options.row or any(words in name for words in options.row))

    return report | {
        kind: [entry for entry in report[kind] if is_chosen(entry["group"], entry[kind.removesuffix("s")])]
        for kind in ("rows", "contests")
    }


def _entries(group, options):
    entries = [*group.make_rows(options), *(group.make_contests(options) if options.rivals else ())]
    return [entry for entry in entries if not options.row or any(words in entry.name for words in options.row)]


def _rounds(group, options):
    return options.rounds or group.ROUNDS


def _measure(entries, groups, options):
    """Measure all of them, or those that come before a Ctrl-C, and return that."""
    steps = sum(entry.steps(_rounds(groups[name], options)) for name, entry in entries)
    with progress.show(len(entries), steps) as shown:
        try:
            for name, entry in entries:
                shown.begin(f"{name}: {entry.name}")
                try:
                    entry.measure(_rounds(groups[name], options), options.calm, shown.step)
                except subprocess.CalledProcessError as error:  # the other rows are worth their minutes all the same
                    harness.SKIPPED.append(f"{entry.name}: its program ended with status {error.returncode}")
        except KeyboardInterrupt as interrupt:
            return interrupt
    return None


def _cpu_model():
    """Return the kernel's name for the CPU; nothing where it has none."""
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as file:
        return next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), None)


def _report(entries, groups, options):
    """What was measured, as plain data; what a Ctrl-C came before is not in it."""
    facts = {
        "date": time.strftime("%Y-%m-%d"),
        "pyconc": None if options.control else pyconc.__version__,
        "python": platform.python_version(),
        "compiler": platform.python_compiler(),
        "linux": ".".join(platform.release().split(".")[:2]),
        "machine": platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "cpu": _cpu_model(),
        "priority": "real-time" if os.sched_getscheduler(0) in (os.SCHED_FIFO, os.SCHED_RR) else None,
        "uvloop": getattr(harness.uvloop, "__version__", None),
    }
    for group in groups.values():
        facts |= group.facts()
    measured = [(name, entry) for name, entry in entries if entry.is_measured]
    return {
        "environment": facts,
        "quick": options.quick,
        "control": options.control,
        "groups": [
            {
                "group": name,
                "question": group.__doc__.partition("\n")[0],
                "baseline": getattr(group, "BASELINE", "standard"),
                "rounds": _rounds(group, options),
            }
            for name, group in groups.items()
        ],
        "rows": [{"group": name} | entry.as_json() for name, entry in measured if isinstance(entry, harness.Row)],
        "contests": [
            {"group": name} | entry.as_json() for name, entry in measured if isinstance(entry, harness.Contest)
        ],
        "skipped": harness.SKIPPED,
        "all_rounds": sum(entry.rounds for _, entry in measured),
        "disturbed_rounds": sum(entry.disturbed for _, entry in measured),
    }


def _write(report, options):
    if options.json:
        text = json.dumps(report, indent=2) + "\n"
        if options.json == "-":
            sys.stdout.write(text)
        else:
            _save(options.json, text)
    if options.plot:
        charts = _charts()
        stem, suffix = os.path.splitext(options.plot)
        for path, dark in (options.plot, False), (f"{stem}-dark{suffix}", True):
            with open(path, "wb") as file:
                file.write(charts.draw(report, suffix[1:], dark))
    if options.html:
        from pyconc._bench import page

        charts = _charts()
        _save(options.html, page.text(report, *(charts.draw(report, "svg", dark) for dark in (False, True))))


def _save(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _charts() -> types.ModuleType:
    from pyconc._bench import charts

    return charts
