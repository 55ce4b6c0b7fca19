"""A table of what the executors of another program do, in a terminal: `python -m pyconc top [PID]`.

It shows what `python -m pyconc dump` does, see _dump.py, and looks again each second: the program does not notice that
either.  CPU time is shown as the share of a CPU since the last look.  Keys: the arrows select a worker, `s` asks a
process by a signal where its threads are, and has read where a thread is, see _thread_stacks.py, `t` makes a timeline
of five seconds, see _top_trace.py, and `q` leaves.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time

from pyconc import _dump

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    import curses
    from typing import Any, NoReturn

__all__ = ["find_programs", "main"]

_ENDED = ("completed", "failed", "cancelled", "timed_out", "died")
_KEYS = "arrows: select   s: stack   t: trace   q: quit"


def find_programs() -> dict[int, str]:
    """Return the programs with executors that this user may look into, with their commands."""
    processes = _dump.Processes()
    holders = {pid: _dump.list_regions(pid) for pid in processes.parents}
    found = {}
    for pid, inodes in holders.items():
        # What a parent has open, too, it has from that.  A worker that has threads is no program of its own.
        own = inodes.difference(*(holders.get(ancestor, ()) for ancestor in processes.ancestors(pid)))
        if own or (not inodes and _dump.list_tables(pid)):
            with contextlib.suppress(_dump.NotSeen):
                found[pid] = _dump.look(pid, processes)["command"]
    return found


def _choose() -> int:
    programs = find_programs()
    if not programs:
        raise _dump.NotSeen("there is no program with executors of pyconc that this user may look into")
    if len(programs) > 1:
        listed = ", ".join(f"{pid} ({_dump.clean(command, 30)})" for pid, command in sorted(programs.items()))
        raise _dump.NotSeen(f"there are several programs, name one of them: {listed}")
    return next(iter(programs))


class _Top:
    """The contents of the screen.  One thread."""

    def __init__(self, pid: int, seconds: float) -> None:
        self._pid = pid
        self._seconds = seconds  # between two looks
        self._selected = 0  # which of the workers
        self._first = 0  # which line is the first on the screen
        self._looked = 0.0  # when
        self.written: list[str] = []  # timelines
        self._told = ""  # in the place of the keys, until one is pressed
        self._look(_dump.look(pid))

    def _look(self, program: dict[str, Any], before: dict[str, Any] | None = None) -> None:
        """Take over what was seen; before: what was seen the last time."""
        now = time.monotonic()
        cpu, ended = _count(program)
        self._cpu: dict[int, float] = {}  # of each worker and thread, as a share
        self._rates: dict[int, float] = {}  # of each executor, by its place: how many calls end a second
        if before is not None and now > self._looked:
            cpu_before, ended_before = _count(before)
            passed = now - self._looked
            self._cpu = {id: (cpu[id] - cpu_before[id]) / passed for id in cpu if id in cpu_before}
            same = [key for key in ended if key in ended_before]
            self._rates = {key[0]: (ended[key] - ended_before[key]) / passed for key in same}
        self._looked = now
        self._program = program
        self._members = [member for pool in program["pools"] for member in pool["members"]]
        self._selected = max(0, min(self._selected, len(self._members) - 1))

    def run(self, screen: curses.window) -> None:
        """Show it until the user leaves; raises NotSeen when the program has ended."""
        import curses

        with contextlib.suppress(curses.error):  # not every terminal can hide it
            curses.curs_set(0)
        while True:
            self._draw(screen)
            left = self._looked + self._seconds - time.monotonic()
            screen.timeout(max(0, int(left * 1000)))
            key = screen.getch()
            if key != -1:
                self._told = ""
            if key in (ord("q"), ord("Q")):
                return
            if key in (curses.KEY_DOWN, curses.KEY_UP):
                step = 1 if key == curses.KEY_DOWN else -1
                self._selected = max(0, min(self._selected + step, len(self._members) - 1))
            elif key == ord("s") and self._members:
                self._show_stack(screen, self._members[self._selected])
            elif key == ord("t"):
                self._told = self._trace(screen)
            if time.monotonic() >= self._looked + self._seconds:
                self._look(_dump.look(self._pid), self._program)

    def _show_stack(self, screen: curses.window, member: dict[str, Any]) -> None:
        is_thread = member["rss"] is None
        what = "thread" if is_thread else "process"
        if is_thread:
            from pyconc import _thread_stacks

            stack = _thread_stacks.read(self._pid).get(member["pid"]) or _thread_stacks.HOW
        else:
            refusal = "It does not answer, or has a use of its own for the signal."
            stack = _dump.ask_for_stack(member) or refusal
        lines = [f"worker {member['number']}, {what} {member['pid']}", "", *stack.splitlines()]
        height, _ = screen.getmaxyx()
        screen.erase()
        for row, line in enumerate(lines[: height - 1]):
            _put(screen, row, line)
        _put(screen, height - 1, "any key: back", is_marked=True)
        screen.refresh()
        screen.timeout(-1)
        screen.getch()

    def _trace(self, screen: curses.window) -> str:
        """Make a timeline, until a key is pressed at the latest; return what is to be told of it."""
        from pyconc import _top_trace

        height, _ = screen.getmaxyx()
        _put(screen, height - 1, f"tracing for {_top_trace.SECONDS:.0f} seconds; any key: enough".ljust(len(_KEYS)))
        screen.refresh()
        screen.timeout(round(_top_trace.STEP * 1000))
        path = time.strftime(f"pyconc-{self._pid}-%H%M%S.json.gz")
        end = time.monotonic() + _top_trace.SECONDS
        try:
            watch = _top_trace.Watch(self._pid)
            while watch.look() and time.monotonic() < end and screen.getch() == -1:
                pass  # getch() waits
            watch.write(path)
        except (_dump.NotSeen, OSError) as error:
            return f"no trace: {error}"
        self.written.append(path)
        return f"{path} is a timeline for https://ui.perfetto.dev"

    def _draw(self, screen: curses.window) -> None:
        height, width = screen.getmaxyx()
        lines = list(_dump.lines(self._program, self._cpu, self._rates, width))
        selected = self._members[self._selected] if self._members else None
        at = next((row for row, (_, member) in enumerate(lines) if member is not None and member is selected), 0)
        room = max(1, height - 1)  # below them are the keys
        if at < room:
            self._first = 0
        else:
            self._first = max(at - room + 1, min(self._first, at))
        screen.erase()
        for row, (line, member) in enumerate(lines[self._first : self._first + room]):
            _put(screen, row, line, is_marked=member is not None and member is selected)
        _put(screen, height - 1, self._told or _KEYS)
        screen.refresh()


def _count(program: dict[str, Any]) -> tuple[dict[int, float], dict[tuple[int, str], int]]:
    """Return the CPU time of each worker and thread, and how many calls of each executor have ended, by place."""
    members = [member for pool in program["pools"] for member in pool["members"] if member["cpu"] is not None]
    cpu = {member["pid"]: member["cpu"] for member in members} | {t["id"]: t["cpu"] for t in program["threads"]}
    ended = {(n, pool["name"]): sum(pool[how] for how in _ENDED) for n, pool in enumerate(program["pools"])}
    return cpu, ended


def _put(screen: curses.window, row: int, line: str, is_marked: bool = False) -> None:
    import curses

    _, width = screen.getmaxyx()
    line = line.encode(screen.encoding, "replace").decode(screen.encoding)
    with contextlib.suppress(curses.error):  # the window has become smaller just now
        screen.addnstr(row, 0, line.ljust(width - 1) if is_marked else line, width - 1, curses.A_REVERSE * is_marked)


def _leave(number: int, _: object) -> NoReturn:
    sys.exit(128 + number)


def main(pid: int | None, seconds: float = 1.0) -> int:
    """Show a program until the user leaves or it ends; return the exit status, 1 if there was nothing to see."""
    try:
        top = _Top(_choose() if pid is None else pid, seconds)
    except _dump.NotSeen as error:
        return _tell(error)
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return _tell("it needs a terminal; `python -m pyconc dump` prints what there is to see")
    try:
        import curses
    except ImportError:
        return _tell("this Python has been built without curses")
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _leave)  # so that the terminal is put right
    try:
        curses.wrapper(top.run)
    except curses.error as error:
        return _tell(f"the terminal cannot be used: {error}")
    except KeyboardInterrupt:
        pass
    except _dump.NotSeen as error:
        print(error)
    for path in top.written:
        print(f"{path} is a timeline for https://ui.perfetto.dev")
    return 0


def _tell(why: object) -> int:
    print(f"python -m pyconc top: {why}", file=sys.stderr)
    return 1
