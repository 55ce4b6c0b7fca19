"""What is said of a worker that has died: to the futures of the calls that it ran, and to all others."""

from concurrent.futures.process import BrokenProcessPool, _RemoteTraceback

from pyconc import _core
from pyconc._process.pickling import WorkerDied, describe_end

__all__ = ["ABRUPTLY", "BROKEN", "DAMAGED", "FORCED", "INITIALIZER_FAILED", "broken", "death_of", "no_worker", "quote"]

BROKEN = "A child process terminated abruptly, the process pool is not usable anymore"
ABRUPTLY = "A process in the process pool was terminated abruptly while the future was running or pending."
FORCED = "A worker process exited while the pool was being forcefully shut down; what was queued is not run."
DAMAGED = "A process in the process pool has written over the memory that its processes share."
INITIALIZER_FAILED = "A process initializer failed, the process pool is not usable anymore"


def no_worker(caught):
    error = BrokenProcessPool(f"no worker could be started: {caught}")
    error.__cause__ = caught
    return error


def death_of(worker, task, name, ran_for, is_condemned, memory_limit):
    pid, code = worker.process.pid, worker.exit_code()
    how, signal_name = describe_end(code)
    task_name = _describe(task) if name is None else name
    message = f"worker process {pid} {how} while it ran {task_name}"
    if is_condemned:
        message = f"{task_name} is lost: a worker wrote over shared memory, and worker {pid} {how}"
    elif worker.is_late:
        message += "; it was killed, as the timeout of shutdown() and the task's grace were over"
    elif worker.is_stopped:
        message += "; it was killed because another call that it ran was to end, and had not ended in time"
    elif worker.oom:
        message += "; the kernel ended it for want of memory"
    elif memory_limit is not None and signal_name in ("SIGSEGV", "SIGABRT", "SIGBUS"):
        message += f"; code in C may die so when memory_limit, here {memory_limit} bytes, refuses it memory"
    elif signal_name == "SIGXCPU":
        message += "; it had used up the CPU time that it may use (RLIMIT_CPU)"
    rss = getattr(worker.process, "rss", None)
    facts = [] if ran_for is None else [f"It ran {task_name} for {ran_for:.3f} s."]
    if rss is not None:
        facts.append(f"It has had {rss / 2**20:.1f} MiB in memory at most.")
    error = WorkerDied(
        message,
        pid,
        code,
        signal_name,
        task,
        task_name=task_name,
        stack=worker.stack,
        ran_for=ran_for,
        rss=rss,
        oom=worker.oom,
        last_log=worker.last_log,
    )
    error.__cause__ = _RemoteTraceback(quote(worker, facts))
    return error


def broken(message, quoted):
    error = BrokenProcessPool(message)
    if quoted is not None:
        error.__cause__ = _RemoteTraceback(quoted)
    return error


def quote(worker, facts=()):
    lines = [f"Process {worker.process.pid} terminated abruptly with exit code {worker.exit_code()}", *facts]
    if worker.stack is not None:
        lines.append(worker.stack.rstrip())
    text = "\n".join(lines)
    return f"\n'''\n{text}'''"


def _describe(task):
    name = _core.name_of(task)
    module = getattr(task, "__module__", None) if hasattr(task, "__qualname__") else None
    return name if module in (None, "builtins", "__main__") else f"{module}.{name}"
