"""What a worker process does from its start to its end."""

import functools
import os
import signal
import sys
from concurrent.futures import _base, process

from pyconc import _core
from pyconc._process import main_module, signals

# How a worker ends whose initializer has raised; nothing else ends it so before it has run a task.
INITIALIZER_FAILED = 97

# How a worker ends that cannot use the memory that it shares, because another has written over it; see worker.h.
MEMORY_DAMAGED = 99


def main(fds, number, setup, limits):
    """Run tasks until there are none left, or as many as a worker may.

    fds: of the region, the result handler's eventfd, and of workers that run event loops, the doorbells.
    setup: (initializer, initargs, loop_factory). limits: (tasks or None, coroutines at a time or None).
    """
    _prepare_signals()
    _make_line_buffered()
    main_module.begin_worker()
    region_fd, wakeup_fd, *doorbells = fds
    initializer, initargs, loop_factory = setup
    max_tasks, concurrency = limits
    try:
        worker = _core.Worker(region_fd, wakeup_fd, number, tuple(doorbells))
    except ValueError:
        sys.exit(MEMORY_DAMAGED)
    os.register_at_fork(after_in_child=worker.after_fork)
    # No worker lives to see more tasks than that.
    serve = functools.partial(worker.run, min(max_tasks or 0, sys.maxsize))
    try:
        if concurrency is not None:
            serve = _prepare_loop(worker, doorbells[number], loop_factory, concurrency, max_tasks)
        if initializer is not None:
            try:
                initializer(*initargs)
            except BaseException:
                _base.LOGGER.critical("Exception in initializer:", exc_info=True)
                sys.exit(INITIALIZER_FAILED)
        del initializer, initargs, setup
        worker.wait_admitted()
        serve()
    finally:
        # What tasks have left open: before Python 3.13 multiprocessing would first wait for the processes in it.
        process._python_exit()


def _prepare_signals():
    """Leave Ctrl-C to the parent, which decides what becomes of its workers: it goes to the whole terminal.

    It is not ignored, as commands that tasks run would ignore it too.  What a task sends to itself interrupts it.
    """
    signals.reset_in_child()
    signal.signal(signal.SIGINT, _interrupt)
    _core.ignore_outer_interrupts()
    os.register_at_fork(after_in_child=_restore_interrupt)


def _interrupt(number, frame):
    raise KeyboardInterrupt


def _restore_interrupt():
    """In a process that a task has forked: it is like a command that a task runs."""
    if signal.getsignal(signal.SIGINT) is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _prepare_loop(*args):
    """Make the event loop of a worker that runs coroutines; return a function that runs it."""
    from pyconc._process.loop_worker import LoopWorker

    try:
        return LoopWorker(*args).serve
    except BaseException:
        _base.LOGGER.critical("Exception in loop_factory:", exc_info=True)
        sys.exit(INITIALIZER_FAILED)


def spawned_main(fds, *rest):
    """The same in a process that multiprocessing has started, which gets duplicates of the file descriptors."""
    from multiprocessing import process

    parent = process.parent_process()
    if parent is not None:
        # At the end of the parent, however it comes, the kernel ends us: no thread has to wait for that.
        _core.die_with_pipe(parent.sentinel)
    main([fd.detach() for fd in fds], *rest)


def _make_line_buffered():
    """Make prints of several processes neither get torn nor lost, also where the program's are not buffered at all."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.reconfigure(line_buffering=True, write_through=False)
        except (AttributeError, ValueError, OSError):
            pass  # None, or something that the program has put there
