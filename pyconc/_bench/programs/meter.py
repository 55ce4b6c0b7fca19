"""How the programs of this folder report: the figures that they print, and the CPU time that they used."""

import glob
import json
import time

__all__ = ["cpu_seconds", "descendants", "percentile", "say"]


def descendants(pid: int | str = "self") -> list[int]:
    """The processes that this one has started, and those that they have, as long as they live."""
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            with open(path) as file:
                children = file.read().split()
        except OSError:
            continue  # it ended meanwhile
        for child in children:
            found += [int(child), *descendants(child)]
    return found


def cpu_seconds() -> float:
    """The CPU time of this process, and of its descendants, as long as they live."""
    used = time.process_time()
    for pid in descendants():
        try:
            used += time.clock_gettime(~pid << 3 | 2)  # the clock of that process, see clock_getcpuclockid(3)
        except OSError:
            pass  # it ended meanwhile
    return used


def percentile(figures: list[float], percent: int) -> float:
    return sorted(figures)[min(len(figures) - 1, len(figures) * percent // 100)]


def say(**figures: float) -> None:
    """Print the figures of a program, by name: its last line."""
    print(json.dumps(figures), flush=True)
