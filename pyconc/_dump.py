"""Shows the executors of another program from outside: `python -m pyconc dump PID`.

The program is not asked, and does not notice: nothing is sent to it, and nothing of its memory is mapped.  Executors
with worker processes have their numbers, and what their workers do, in a file in memory, "pyconc" in /proc/PID/fd.  It
is read there, which the kernel allows to those who may look into the process: mostly the same user, and root.  Workers
are the processes below the program that share it.  What is read may be damaged, so it is checked, and
what cannot be right is left out.

The pools of threads of a program have one such file together, "pyconc-threads", which only it shares.  Where there was
no room, as for more than some thousand threads, only the threads themselves are seen, by the names that they have.
An executor is seen from its first call on, and after its shutdown as long as the program keeps it.

`--json` prints one object.  Times are in seconds, memory in bytes, and None is null:

    schema          1: of this description
    pid, command    the program's
    pools           of each executor:
        kind            "processes", "coroutines" or "threads"
        name, max_workers, workers, idle, running, queued, submitted, completed, failed, cancelled, timed_out, died,
        abandoned, recycled, stolen, run, wait
                        as in pyconc.PoolStats; run and wait have calls, total, p50, p90, p99, max; wait is null
                        unless the executor was made with timed=True, and so is run of threads
        members         of each worker:
            number          from 0, or null
            pid             of threads the number of the thread, as ps -L has it; null: the process could not be seen
            state           "running", "idle", or "starting"; in processes also "unpickling" and "pickling", as in
                            pyconc.WorkerStats
            calls           how many it has ended
            running         how many it runs
            task            the name of the one that began first, as in pyconc.WorkerStats; null: none, or, of a
                            coroutine and of a call that is unpickled, it is not in the worker's message: a function
                            that travels by value, a method, a call with large arguments
            running_for     for how long, of threads to within some milliseconds; null: none
            progress        what that call has told of it, {"done", "total", "note"}; null: nothing. What is
                            no finite number is null there, too
            rss, cpu        memory, and CPU time so far; null: the process could not be seen; rss of threads is null
            stack           only with --stacks: where its threads are, or null if it has not answered; of a thread
                            where that is, or null if there is no tool to read it
    threads         of each other thread that has the name of a pool's: id, name, state (as in ps), cpu
    unreadable      how many more executors there are whose memory is damaged
    hidden          how many more pools of threads there are for which there was no room
"""

from __future__ import annotations

import contextlib
import os
import re
import stat
import sys
from importlib import import_module

from pyconc import _core
from pyconc._stats import PHASES

TYPE_CHECKING = False  # typing takes longer to import than this package
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

__all__ = [
    "NotSeen",
    "Processes",
    "add_processes",
    "ask_for_stack",
    "clean",
    "find_pools",
    "find_tables",
    "lines",
    "list_regions",
    "list_tables",
    "look",
    "main",
    "number_inside",
    "read_pool",
    "read_table",
]

_REGION = "/memfd:pyconc (deleted)"
_THREADS = "/memfd:pyconc-threads (deleted)"
_BLACK_BOX = "/memfd:pyconc-black-box (deleted)"

# What wire.h calls them.
_SCALARS, _NAMED = 8, 16

# The function that a node's worker calls for a coroutine, whose name is in its argument.
_OF_A_CLUSTER = ["pyconc.cluster._calls", "run_coroutine"]

_HISTOGRAM = ("calls", "total", "p50", "p90", "p99", "max")
_STATS = (
    *("workers", "idle", "running", "queued", "submitted", "completed", "failed", "cancelled", "timed_out", "died"),
    *("abandoned", "recycled", "stolen", "run", "wait"),
)
# The columns of a table, how wide they are, and those that give way, in this order, to so much of the tasks' names.
_COLUMNS = {"worker": 6, "pid": 7, "state": 10, "calls": 9, "rss": 8, "cpu": 8, "for": 8}
_GIVE_WAY = ("calls", "rss", "cpu", "pid")
_TASK_WIDTH = 18
# Those that a table has, if they are not 0, and what it calls them.
_TOLD = {
    **{how: how.replace("_", " ") for how in ("completed", "failed", "cancelled", "timed_out", "died", "stolen")},
    "recycled": "workers recycled",
}

_TICK = 1 / os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class NotSeen(Exception):
    """Why there is nothing to show, in one sentence."""


class Processes:
    """The processes that /proc shows now: parents, names, CPU time and memory."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self._own: dict[int, tuple[str, float, int]] = {}  # name, CPU time, memory
        for entry in os.listdir("/proc"):
            if entry.isdigit() and (found := _read_stat(f"/proc/{entry}/stat")) is not None:
                name, fields = found
                pid = int(entry)
                self.parents[pid] = int(fields[1])
                self._own[pid] = name, _cpu(fields), int(fields[21]) * _PAGE

    def name(self, pid: int) -> str:
        return self._own[pid][0]

    def cpu(self, pid: int) -> float:
        return self._own[pid][1]

    def rss(self, pid: int) -> int:
        return self._own[pid][2]

    def ancestors(self, pid: int) -> Iterator[int]:
        """Yield the parent, its parent, and so on."""
        seen = {pid}
        while (pid := self.parents.get(pid, 0)) and pid not in seen:
            seen.add(pid)
            yield pid


def _read_stat(path: str) -> tuple[str, list[str]] | None:
    """Return a process's or a thread's name, and what stands behind it; None: it has ended."""
    try:
        with open(path, errors="replace") as file:
            before, _, behind = file.read().rpartition(")")
    except OSError:
        return None
    return before.partition("(")[2], behind.split()


def _cpu(fields: list[str]) -> float:
    return (int(fields[11]) + int(fields[12])) * _TICK


def _files(pid: int, name: str) -> Iterator[tuple[int, str]]:
    """Yield the inode, and the path, of each file in memory with that name that a process has open."""
    folder = f"/proc/{pid}/fd"
    for number in sorted(os.listdir(folder), key=int):
        path = f"{folder}/{number}"
        with contextlib.suppress(FileNotFoundError):  # it was closed just now
            if os.readlink(path) == name and stat.S_ISREG((found := os.stat(path)).st_mode):
                yield found.st_ino, path


def list_regions(pid: int) -> set[int]:
    """Return those of the regions that a process has open; none where one may not look."""
    return _inodes(pid, _REGION)


def list_tables(pid: int) -> set[int]:
    """Return the tables of pools of threads that a process has open, in the same way."""
    return _inodes(pid, _THREADS)


def _inodes(pid: int, name: str) -> set[int]:
    try:
        return {inode for inode, _ in _files(pid, name)}
    except OSError:
        return set()


def _mapped(pid: int) -> set[int]:
    """Return those that it shares: what a worker has open but does not share is another executor's, from a fork."""
    try:
        with open(f"/proc/{pid}/maps", errors="replace") as file:
            lines = [line.split(maxsplit=5) for line in file if line.endswith(f"{_REGION}\n")]
    except OSError:
        return set()
    return {int(line[4]) for line in lines if line[1].endswith("s")}


def _is_written(path: str) -> bool:
    """Tell whether a process has opened a file to write only."""
    with open(path.replace("/fd/", "/fdinfo/")) as file:
        flags = next(int(line.split()[1], 8) for line in file if line.startswith("flags:"))
    return flags & os.O_ACCMODE == os.O_WRONLY


def _check_exists(pid: int) -> None:
    """Raise NotSeen if there is no such process, or nothing of it to be seen."""
    if not os.path.exists("/proc/self/stat"):
        raise NotSeen("there is no /proc here, where programs can be seen")
    if (found := _read_stat(f"/proc/{pid}/stat")) is not None:
        if found[1][0] in ("Z", "X"):
            raise NotSeen(f"process {pid} has ended")
        return
    try:
        os.kill(pid, 0)  # sends nothing
    except (ProcessLookupError, OverflowError):
        raise NotSeen(f"there is no process {pid}") from None
    except PermissionError:
        raise NotSeen(f"process {pid} is another user's, and /proc hides it") from None
    raise NotSeen(f"/proc hides process {pid}")


def _explain_refusal(pid: int) -> NotSeen:
    try:
        if os.stat(f"/proc/{pid}").st_uid != os.geteuid():
            return NotSeen(f"process {pid} is another user's, or has other rights: only that user or root may look")
    except OSError:
        return NotSeen(f"process {pid} has ended")
    return NotSeen(f"the system lets nobody but root look into process {pid}: see ptrace(2), access mode checking")


def look(pid: int, processes: Processes | None = None) -> dict[str, Any]:
    """Return what can be seen of a program, as `--json` prints it; raises NotSeen."""
    _check_exists(pid)
    processes = processes or Processes()
    try:
        files = dict(_files(pid, _REGION))
        inherited = _inherited(pid, files, processes)
        pools, unreadable = {}, 0
        for inode, path in files.items():
            if inode not in inherited:
                try:
                    pools[inode] = read_pool(path)
                except ValueError:
                    unreadable += 1
                except FileNotFoundError:
                    pass  # it was closed just now
        of_threads, hidden, damaged = _find_thread_pools(pid)
        unreadable += damaged
        if unreadable and not pools and not of_threads:
            raise NotSeen(f"process {pid} uses another version of pyconc than this one, or its memory is damaged")
        if inherited and not pools and not of_threads:
            raise NotSeen(
                f"process {pid} is no program with executors, but belongs to process {inherited.popitem()[1]}"
            )
        if not files and not _has_pyconc(pid):
            raise NotSeen(f"process {pid} does not use pyconc")
        threads = _list_threads(pid)
        _add_threads(of_threads, threads)
        command = _read_command(pid)
    except PermissionError:
        raise _explain_refusal(pid) from None
    except (FileNotFoundError, ProcessLookupError):
        raise NotSeen(f"process {pid} has ended") from None
    add_processes(pid, pools, processes)
    return {
        "schema": 1,
        "pid": pid,
        "command": command,
        "pools": [*pools.values(), *of_threads],
        "threads": list(threads.values()),
        "unreadable": unreadable,
        "hidden": hidden,
    }


def _inherited(pid: int, inodes: Any, processes: Processes) -> dict[int, int]:
    """Return whose those files are, of some, that are not the process's own: it is a worker, or the child of a fork."""
    found = {}
    for ancestor in processes.ancestors(pid) if inodes else ():
        for inode in list_regions(ancestor).intersection(inodes):
            found[inode] = ancestor
    return found


def _has_pyconc(pid: int) -> bool:
    with open(f"/proc/{pid}/maps", errors="replace") as file:
        return any("/pyconc/_core." in line for line in file)


def _read_command(pid: int) -> str:
    with open(f"/proc/{pid}/cmdline", errors="replace") as file:
        return file.read(4096).rstrip("\0").replace("\0", " ")


def _list_threads(pid: int) -> dict[int, dict[str, Any]]:
    """Return the threads that have the names of pools' threads, by their numbers."""
    threads = {}
    for entry in sorted(os.listdir(f"/proc/{pid}/task"), key=int):
        found = _read_stat(f"/proc/{pid}/task/{entry}/stat")
        if found is not None and re.search(r"-t\d+$", found[0]):
            name, fields = found
            threads[int(entry)] = {"id": int(entry), "name": name, "state": fields[0], "cpu": _cpu(fields)}
    return threads


# ---- a pool ----


def find_pools(pid: int, processes: Processes) -> dict[int, str]:
    """Return the paths of the regions of a program's own executors, by inode; raises OSError."""
    files = dict(_files(pid, _REGION))
    inherited = _inherited(pid, files, processes)
    return {inode: path for inode, path in files.items() if inode not in inherited}


def read_pool(path: str) -> dict[str, Any]:
    """Return what a region tells of its executor; raises ValueError if it is damaged, OSError if it is closed."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        runs_coroutines, name, max_workers, numbers, workers = _core.look_at_pool(fd)
    finally:
        os.close(fd)
    members = []
    for number, calls, running, began, seconds, phase, shown, call in workers:
        if shown is not None:
            task: str | None = shown.decode(errors="replace")
        else:
            task = None if call is None else _name_of_call(*call)
        member = _describe_worker(number, None, calls, running, seconds, task)
        members.append(member | {"state": PHASES[phase], "began": began})
    return _describe_pool("coroutines" if runs_coroutines else "processes", name, max_workers, numbers, members)


def _describe_pool(
    kind: str, name: bytes, max_workers: int, numbers: tuple[Any, ...], members: list[dict[str, Any]]
) -> dict[str, Any]:
    """Describe a pool as `--json` does; numbers: what stats() of its queue returns."""
    pool: dict[str, Any] = {"kind": kind, "name": name.decode(errors="replace"), "max_workers": max_workers}
    pool |= dict(zip(_STATS, numbers))
    for times in ("run", "wait"):
        pool[times] = None if pool[times] is None else dict(zip(_HISTOGRAM, pool[times]))
    return pool | {"members": members}


def _describe_worker(
    number: int | None, pid: int | None, calls: int, running: int, seconds: float | None, task: str | None
) -> dict[str, Any]:
    return {
        "number": number,
        "pid": pid,
        "state": "running" if running else "idle",
        "calls": calls,
        "running": running,
        "task": task if running else None,
        "running_for": seconds if running else None,
        "progress": None,
        "rss": None,
        "cpu": None,
    }


def _describe_progress(done: Any, total: Any, note: Any) -> dict[str, Any]:
    """Describe what a call has told, of which anything may stand there; JSON has neither nan nor inf."""
    numbers = {"done": done, "total": total}
    for name, number in numbers.items():
        if not isinstance(number, (int, float)) or not -sys.float_info.max <= number <= sys.float_info.max:
            numbers[name] = None
    return numbers | {"note": note if isinstance(note, str) else None}


def _name_of_call(flags: int, callable_bytes: int, stream: bytes) -> str | None:
    """Return what a call is named by its options, or else the function's name; nothing is unpickled for that."""
    rest = stream[callable_bytes:]
    if not flags & _NAMED:
        texts = _leading_texts(stream[:callable_bytes], 2)
        if texts == _OF_A_CLUSTER:
            texts = _texts_of_packed(flags, rest)
        return texts[1] if len(texts) == 2 else None
    if not flags & _SCALARS:
        return next(iter(_leading_texts(rest, 1)), None)
    try:
        name = _core.scalars_loads(rest)[0]
    except (ValueError, TypeError, IndexError):
        return None
    return name if isinstance(name, str) else None


def _texts_of_packed(flags: int, rest: bytes) -> list[str]:
    """Return what _leading_texts() does of a call that came packed; pyconc/cluster/_calls.py says how."""
    try:
        if flags & _SCALARS:
            (packed,) = _core.scalars_loads(rest)
        else:
            packed = rest[11 if rest[2] == 0x95 else 2 :]  # see below
            packed = packed[{b"C": 2, b"B": 5}[packed[:1]] :]
        return _leading_texts(packed[2:] if packed[0] in (0, 1) else packed, 2)
    except (ValueError, TypeError, LookupError):
        return []


def _leading_texts(pickled: bytes, most: int) -> list[str]:
    """Return the strings that a pickle begins with: a module's name and the function's, of one that goes by name."""
    found: list[str] = []
    at = 11 if pickled[2:3] == b"\x95" else 2  # behind the protocol, and the size of the frame
    while len(found) < most and pickled[at : at + 1] in (b"\x8c", b"X"):
        size_bytes = 1 if pickled[at] == 0x8C else 4
        start = at + 1 + size_bytes
        end = start + int.from_bytes(pickled[at + 1 : start], "little")
        if end > len(pickled):
            break
        found.append(pickled[start:end].decode(errors="replace"))
        at = end + 1  # behind its place in the memo
    is_by_name = most == 1 or pickled[at : at + 1] == b"\x93"
    return found if is_by_name else []


def add_processes(pid: int, pools: dict[int, dict[str, Any]], processes: Processes) -> None:
    """Add to each pool what can be seen of its workers' processes."""
    numbers: dict[int, dict[int, int]] = {inode: {} for inode in pools}  # of a worker: its process
    for child in sorted(processes.parents):
        number = re.search(r"-w(\d+)$", processes.name(child))
        if number is None or pid not in (ancestors := list(processes.ancestors(child))):
            continue
        for inode in _mapped(child).intersection(pools):
            # A process that a worker has forked has its name, too.
            if not set(ancestors).intersection(numbers[inode].values()):
                numbers[inode][int(number[1])] = child
    for inode, found in numbers.items():
        members = pools[inode]["members"]
        for member in members:
            _add_process(member, found.pop(member["number"], None), processes)
        for number_, child in found.items():
            members.append(_describe_worker(number_, None, 0, 0, None, None) | {"state": "starting", "began": None})
            _add_process(members[-1], child, processes)


def _add_process(member: dict[str, Any], child: int | None, processes: Processes) -> None:
    began = member.pop("began")
    if child is not None:
        member.update(pid=child, rss=processes.rss(child), cpu=processes.cpu(child))
        if member["running"]:
            member["progress"] = _read_progress(child, member["number"], began)


def _find_black_box(pid: int) -> str | None:
    """Return the path of a worker's own black box; others that it has open are its parent's, from a fork."""
    return next((path for _, path in _files(pid, _BLACK_BOX) if _is_written(path)), None)


def _read_progress(pid: int, number: int, began: float | None) -> dict[str, Any] | None:
    """Return what the call of a worker that began then has told of how far it is."""
    try:
        path = _find_black_box(pid)
        if path is None:
            return None
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        if os.fstat(fd).st_size == 0:
            return None  # none there has ever told anything
        black_box: Any = import_module("pyconc._process.black_box")
        progress = black_box.read_progress(fd, number, began)
        return None if progress is None else _describe_progress(*progress)
    finally:
        os.close(fd)


# ---- pools of threads ----


def _find_thread_pools(pid: int) -> tuple[list[dict[str, Any]], int, int]:
    """Return a program's pools of threads, how many are hidden, and how many tables are damaged; raises OSError."""
    pools, hidden, damaged = [], 0, 0
    for _, path in _files(pid, _THREADS):
        try:
            found = read_table(path, number_inside(pid))
        except ValueError:
            damaged += 1
        except FileNotFoundError:
            pass  # it was closed just now
        else:
            pools += [pool for _, pool in found[0]]
            hidden += found[1]
    return pools, hidden, damaged


def find_tables(pid: int) -> dict[int, str]:
    """Return the paths of the tables of pools of threads that a program has open, by inode; raises OSError."""
    return dict(_files(pid, _THREADS))


def number_inside(pid: int) -> int:
    """Return what a process in another namespace of numbers has as its own."""
    with open(f"/proc/{pid}/status", errors="replace") as file:
        numbers = next((line.split() for line in file if line.startswith("NSpid:")), [str(pid)])
    return int(numbers[-1])


def read_table(path: str, process: int) -> tuple[list[tuple[int, dict[str, Any]]], int]:
    """Return the pools of threads in a table, each with its number, and how many are hidden.

    Of a table that is another process's, which this one has from a fork, nothing. Raises as read_pool().
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        owner, hidden, found = _core.look_at_threads(fd)
    finally:
        os.close(fd)
    if owner != process:
        return [], 0
    pools = []
    for pool, name, max_workers, numbers, workers in found:
        members = []
        for thread, calls, running, seconds, task, told in workers:
            task = task and task.decode(errors="replace")
            members.append(_describe_worker(None, thread, calls, running, seconds, task))
            if told is not None:
                done, total, note = told
                note = None if note is None else note.decode(errors="replace")
                members[-1]["progress"] = _describe_progress(done, total, note)
        pools.append((pool, _describe_pool("threads", name, max_workers, numbers, members)))
    return pools, hidden


def _add_threads(pools: list[dict[str, Any]], threads: dict[int, dict[str, Any]]) -> None:
    """Move what can be seen of threads to the workers that they are."""
    for member in (member for pool in pools for member in pool["members"]):
        if (thread := threads.pop(member["pid"], None)) is not None:
            member.update(number=int(thread["name"].rpartition("-t")[2]), cpu=thread["cpu"])
    for pool in pools:
        pool["members"].sort(key=lambda member: (member["number"] is None, member["number"]))


# ---- stacks ----


def ask_for_stack(member: dict[str, Any], seconds: float = 1.0) -> str | None:
    """Have a worker write where its threads are, as its parent would; None: it cannot, or has not within that time."""
    black_box: Any = import_module("pyconc._process.black_box")
    kernel: Any = import_module("pyconc._process.kernel")
    if member["pid"] is None or member["number"] is None or member["rss"] is None:  # a thread has none
        return None
    try:
        pidfd = kernel.open_pidfd(member["pid"])
        try:
            path = _find_black_box(member["pid"])
            if path is None or pidfd is None:
                return None
            fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            stack: str | None = black_box.ask_from_outside(fd, member["number"], member["pid"], pidfd, seconds)
            return stack
        finally:
            if pidfd is not None:
                os.close(pidfd)
    except OSError:
        return None


# ---- text ----


def clean(text: str, most: int = 60) -> str:
    """Return what another program calls something, as one may send it to a terminal."""
    text = "".join(c if c.isprintable() else "?" for c in text)
    return text if len(text) <= most else text[: most - 3] + "..."


def _show_seconds(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    if seconds < 0.001:
        return f"{seconds * 1e6:.0f} µs"
    if seconds < 1:
        return f"{seconds * 1000:.1f} ms"
    return f"{seconds:.1f} s" if seconds < 600 else f"{seconds / 60:.0f} min"


def _show_progress(progress: dict[str, Any] | None) -> str:
    """Return what a task has told of how far it is, to follow its name."""
    if progress is None:
        return ""
    total = "" if progress["total"] is None else f" of {progress['total']:g}"
    note = "" if progress["note"] is None else f" {clean(progress['note'])}"
    done = "?" if progress["done"] is None else f"{progress['done']:g}"
    return f": {done}{total}{note}"


def _show_size(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e6:.0f} MB"


def _format_times(times: dict[str, float]) -> str:
    return ", ".join(f"{key} {_show_seconds(times[key])}" for key in ("p50", "p90", "p99", "max"))


def _choose_columns(width: int | None) -> list[str]:
    """Return those for which there is room in lines of that width; None: as many as there are."""
    chosen = list(_COLUMNS)
    for column in _GIVE_WAY:
        if width is None or sum(_COLUMNS[shown] + 2 for shown in chosen) + 2 + _TASK_WIDTH <= width:
            break
        chosen.remove(column)
    return chosen


def lines(
    program: dict[str, Any],
    cpu: dict[int, float] | None = None,
    rates: dict[int, float] | None = None,
    width: int | None = None,
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield the lines of the table, each with the worker that it is about, or None.

    cpu: which share of a CPU each worker and thread takes, in place of the time. rates: how many calls of each executor
    end a second, by its place. width: of the lines, in which columns give way to what tasks are named; None: any.
    """
    columns = _choose_columns(width)

    def make_row(cells: dict[str, Any], task: str) -> str:
        shown = (f"{cells[name]:{'<' if name == 'state' else '>'}{_COLUMNS[name]}}" for name in columns)
        return "  " + "  ".join([*shown, task])

    def show_cpu(id: int, time: float | None) -> str:
        if cpu is None:
            return "-" if time is None else f"{time:.2f} s"  # the kernel tells it to a hundredth
        return f"{cpu[id]:.0%}" if id in cpu else "-"

    yield f"{program['pid']}  {clean(program['command'])}", None
    for place, pool in enumerate(program["pools"]):
        yield "", None
        busy = f"{pool['running']} running, {pool['queued']} queued, {pool['workers']} of {pool['max_workers']} workers"
        rate = "" if rates is None or place not in rates else f", {rates[place]:.0f} calls/s"
        yield f"{clean(pool['name'])} ({pool['kind']}): {busy}{rate}", None
        told = ", ".join(f"{pool[how]} {what}" for how, what in _TOLD.items() if pool[how] or how == "completed")
        yield f"  {pool['submitted']} submitted, {told}", None
        for what, times in (("waited", pool["wait"]), ("ran", pool["run"])):
            if times is not None and times["calls"]:
                yield f"  they {what} for {_format_times(times)}", None
        titles = {name: name for name in _COLUMNS} | {"pid": "thread" if pool["kind"] == "threads" else "pid"}
        yield make_row(titles, "task"), None
        for member in pool["members"]:
            number, pid = ("-" if member[key] is None else member[key] for key in ("number", "pid"))
            task = "-" if not member["running"] else clean(member["task"] or "?") + _show_progress(member["progress"])
            more = f" and {member['running'] - 1} more" if member["running"] > 1 else ""
            times = {"cpu": show_cpu(member["pid"], member["cpu"]), "for": _show_seconds(member["running_for"])}
            sizes = {"calls": member["calls"], "rss": _show_size(member["rss"])}
            row = {"worker": number, "pid": pid, "state": member["state"]} | sizes | times
            yield make_row(row, f"{task}{more}"), member
    if program["threads"]:
        yield "", None
        yield "other threads of pools, as the kernel knows them", None
        yield "      id  state       cpu  name", None
        for thread in program["threads"]:
            time = show_cpu(thread["id"], thread["cpu"])
            yield f"{thread['id']:>8}  {thread['state']:5}  {time:>8}  {clean(thread['name'])}", None
    if not program["pools"] and not program["threads"]:
        yield "no executor has had a call yet", None
    if program["hidden"]:
        yield f"{program['hidden']} more pools of threads, which there was no room to show", None
    if program["unreadable"]:
        yield f"{program['unreadable']} more with damaged memory", None


def _format(program: dict[str, Any]) -> Iterator[str]:
    for line, member in lines(program):
        yield line
        stack = None if member is None else member.get("stack")
        yield from (f"            {clean(frame, 200)}" for frame in (stack or "").splitlines())


def main(pid: int, *, as_json: bool, stacks: bool) -> int:
    """Print what can be seen of a program; return the exit status: 1 if there is nothing, for a reason that is told."""
    try:
        program = look(pid)
    except NotSeen as error:
        print(f"python -m pyconc dump: {error}", file=sys.stderr)
        return 1
    if stacks:
        from pyconc import _thread_stacks

        has_threads = any(pool["kind"] == "threads" and pool["members"] for pool in program["pools"])
        of_threads = _thread_stacks.read(pid) if has_threads else {}
        for pool in program["pools"]:
            for member in pool["members"]:
                is_thread = pool["kind"] == "threads"
                member["stack"] = of_threads.get(member["pid"]) if is_thread else ask_for_stack(member)
    if as_json:
        import json

        text = json.dumps(program, indent=2)
    else:
        text = "\n".join(_format(program))
    try:
        print(text, flush=True)
    except BrokenPipeError:  # whoever reads has seen enough
        _drop_output()
    except OSError as error:
        print(f"python -m pyconc dump: {error.strerror}", file=sys.stderr)
        _drop_output()
        return 1
    return 0


def _drop_output() -> None:
    """Have the interpreter not try again at its end to write what nobody takes."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
