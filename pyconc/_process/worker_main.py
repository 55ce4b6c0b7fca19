"""The main function of a worker process."""

import _signal
import functools
import os
import sys
import threading
from collections import namedtuple
from concurrent.futures import _base, process

from pyconc import _context, _core, _current_task, _names
from pyconc._process import black_box, main_module, signals, tracker

__all__ = ["IDLED", "INITIALIZER_FAILED", "INTERRUPTED_IMPORT", "MEMORY_DAMAGED", "Limits", "main", "spawned_main"]

# The exit code of a worker whose initializer has raised; before its first task, no other end has it.
INITIALIZER_FAILED = 97

# The exit code of a worker that cannot use the shared memory, because another has written over it; see worker.h.
MEMORY_DAMAGED = 99

# The exit code of a worker in which a call was interrupted while it imported something: it may have half a module, and
# another takes its place.
INTERRUPTED_IMPORT = 96

# The exit code of a worker that has had nothing to do for as long as it may; see worker.h.
IDLED = 95


class Limits(namedtuple("Limits", "tasks concurrency rss memory logs context name idle method", defaults=[None] * 9)):
    """What a worker may do before it leaves, and while it is there, None: as much as it likes; and its name.

    tasks: it is replaced after so many.
    concurrency: coroutines at a time; None: it runs no event loop.
    rss: bytes in memory; with more it is replaced.
    memory: bytes more than there are as a call begins.
    logs: what it logs goes to the program.
    context: the names of the ContextVars that come with calls, for _context.run_without().
    name: the executor's, if the program has given it one: ps and top show it.
    idle: it leaves when it has waited for a task for so many seconds.
    method: by which processes that its tasks start begin, as in all that a context of multiprocessing forks.

    No typing.NamedTuple: the program, and each worker of a fresh interpreter, would import typing for it.
    """

    __slots__ = ()


def main(fds, number, setup, limits, main_of_fork=None):
    """Run tasks until none are left, or until this worker has run as many as it may.

    fds: as launcher.worker_fds() returns them. setup: (initializer, initargs, loop_factory). limits: Limits.
    main_of_fork: as for main_module.begin_worker().
    """
    # Forked by the supervisor's thread, it would have that thread's name in its logs.  From 3.14 on this names it
    # to the kernel, too; so its own name there comes second.
    if not isinstance(main_thread := threading.main_thread(), threading._MainThread):
        main_thread.name = "MainThread"
    _core.name_thread(_names.short_name(limits.name, f"-w{number}"))
    _prepare_signals()
    _make_line_buffered()
    main_module.begin_worker(main_of_fork)
    region_fd, wakeup_fd, box_fd, line, *more_fds = fds
    initializer, initargs, loop_factory = setup
    if limits.logs is not None:
        from pyconc import _logs

        log_fd, levels_fd, *more_fds = more_fds
        _logs.install(log_fd, levels_fd)
    doorbells = () if limits.concurrency is None else tuple(more_fds)
    relief_fd = -1 if limits.rss is None else more_fds[0]
    try:
        worker = _core.Worker(region_fd, wakeup_fd, number, doorbells, relief_fd)
    except ValueError:
        sys.exit(MEMORY_DAMAGED)
    black_box.install(box_fd, number)
    tracker.borrow_by(line)
    _current_task.note_progress = black_box.note_progress
    os.register_at_fork(after_in_child=lambda: (worker.after_fork(), black_box.leave()))
    signals.handle_stops(worker.on_stop)
    sys.unraisablehook = functools.partial(
        worker.on_unraisable, sys.unraisablehook or sys.__unraisablehook__, signals.STOP
    )
    # No worker reaches more than sys.maxsize of anything.
    most = [min(limit or 0, sys.maxsize) for limit in (limits.tasks, limits.rss, limits.memory)]
    serve = functools.partial(worker.run, *most, float(limits.idle or 0))
    try:
        if limits.concurrency is not None:
            serve = _prepare_loop(worker, doorbells[number], loop_factory, limits.concurrency, limits.tasks)
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException:
                _base.LOGGER.critical("Exception in initializer:", exc_info=True)
                sys.exit(INITIALIZER_FAILED)
        del initializer, initargs, setup
        worker.wait_admitted()
        if limits.context is not None:
            serve = functools.partial(_context.run_without, limits.context, serve)
        serve()
    finally:
        # Shut down executors that tasks have left open: before Python 3.13 multiprocessing would first wait for their
        # processes.
        process._python_exit()


def _prepare_signals():
    """Let a terminal's Ctrl-C, which reaches all processes, do nothing here: the parent decides about its workers.

    The signal has a handler: commands that tasks run would inherit SIG_IGN.  A task that sends it to itself is
    interrupted.  A program that ignores Ctrl-C means its commands to do so, too.
    """
    signals.reset_in_child()
    if signals.program_ignores_interrupts():
        _signal.signal(_signal.SIGINT, _signal.SIG_IGN)
        return
    with signals.BlockInterrupts():
        _signal.signal(_signal.SIGINT, _interrupt)
        _core.ignore_outer_interrupts()
    os.register_at_fork(after_in_child=_restore_interrupt)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def _restore_interrupt():
    """Have SIGINT interrupt a process that a task has forked, as it interrupts commands that tasks run."""
    if _signal.getsignal(_signal.SIGINT) is _interrupt:
        _signal.signal(_signal.SIGINT, _signal.default_int_handler)


def _prepare_loop(*args):
    """Make the event loop of a worker that runs coroutines; return a function that runs it."""
    from pyconc._process.loop_worker import LoopWorker

    try:
        return LoopWorker(*args).serve
    except BaseException:
        _base.LOGGER.critical("Exception in loop_factory:", exc_info=True)
        sys.exit(INITIALIZER_FAILED)


def spawned_main(fds, *rest):
    """Do the same in a process that multiprocessing has started.

    fds: those that it has inherited, or else what duplicates of them come from.
    """
    from multiprocessing import process

    parent = process.parent_process()
    if parent is not None:
        # The kernel ends this process with its parent, so no thread has to wait for the parent's end.
        _core.die_with_pipe(parent.sentinel)
    main([fd if isinstance(fd, int) else fd.detach() for fd in fds], *rest)


def _make_line_buffered():
    """Keep prints of several processes from being torn or lost, also where the program does not buffer its own."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True, write_through=False)
        except (AttributeError, ValueError, OSError):
            pass  # None, or the program's own object
