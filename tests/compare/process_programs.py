"""Random programs over a process executor; see programs.py for what a program is and how a machine runs one.

Here tasks are on their own in other processes: what has effects are the steps, and callbacks.  Three things differ:

* Pools are used again: most programs leave theirs as they found it.  The others end with a shutdown, a dying worker or
  by forgetting the pool, and a few steps after that.
* The standard library hands out more tasks than it has workers, how many depends on time, and these can no longer be
  cancelled; pyconc announces that it does not.  So the oracle is made to hand out one task per worker.
* pyconc tells those who wait of a cancelled task before its turn.  So nobody looks whether they have been told yet.

A callback in the thread that collects runs beside the next task.  There it submits or shuts down, at most.
"""

import threading
from collections.abc import Callable
from typing import Any

import tasks
from hypothesis import strategies as st
from libraries import Library, Log, outcome
from programs import ERRORS, Machine, Step, Task, a_return_when, an_end, an_index, some_tasks
from support import wait_until

# --- Programs ---------------------------------------------------------------------------------------------------------

_body = st.tuples(st.booleans(), st.just(()), an_end)
_effect = st.one_of(
    st.tuples(st.just("submit"), _body),
    st.tuples(st.just("cancel"), an_index),
    st.tuples(st.just("wait"), some_tasks),
    st.just(("shutdown", False)),
)
_callback = st.one_of(st.just(("note",)), st.just(("fail",)), st.just(("add",)), st.just(("meddle",)), _effect)
_harmless = st.one_of(*[st.just((kind,)) for kind in ("note", "fail", "add", "meddle")])

_often = [
    st.tuples(st.just("submit"), _body),
    st.tuples(st.just("submit many"), st.lists(_body, max_size=6).map(tuple)),
    st.tuples(st.just("open"), an_index),
    st.tuples(st.just("callback"), an_index, _harmless),
    st.tuples(st.just("cancel"), an_index),
]
_seldom = [
    st.tuples(st.just("callback"), an_index, st.tuples(st.just("submit"), _body)),
    st.tuples(st.just("result"), an_index),
    st.tuples(st.just("exception"), an_index),
    st.tuples(st.just("mark"), an_index),
    st.tuples(st.just("wait"), some_tasks, a_return_when),
    st.tuples(st.just("as_completed"), some_tasks),
    st.tuples(st.just("watch"), some_tasks),
    st.tuples(st.just("iterate"), some_tasks),
]
_step = st.one_of(*_often, *_often, *_seldom)
_end = st.one_of(
    st.tuples(st.just("shutdown"), st.booleans()),
    st.tuples(st.just("callback"), an_index, _callback),
    st.just(("shutdown and wait",)),
    st.just(("forget the pool",)),
    st.just(("die",)),
)
_steps = st.lists(_step, min_size=2, max_size=14)
_finale = st.builds(lambda end, steps: [end, *steps], _end, st.lists(_step, max_size=4))
process_programs = st.builds(lambda steps, finale: steps + finale, _steps, st.one_of(*[st.just([])] * 5, _finale))

# --- Pools ------------------------------------------------------------------------------------------------------------


def limit_what_is_handed_out(pool: Any, workers: int) -> None:
    """Has the standard executor give a task to its workers when one of them is free, and not before."""
    items = pool._pending_work_items
    pool._call_queue.full = lambda: sum(i.future._state == "RUNNING" for i in list(items.values())) >= workers


class Pools:
    """Executors that wait for their next program: of each library, with each number of workers, one."""

    def __init__(self) -> None:
        self.idle: dict[tuple[Library, int], Any] = {}

    def take(self, library: Library, workers: int) -> Any:
        pool = self.idle.pop((library, workers), None)
        if pool is None:
            pool = library.breakable_pool(workers)
            if not library.newest:
                limit_what_is_handed_out(pool, workers)
        return pool

    def give_back(self, library: Library, workers: int, pool: Any) -> None:
        self.idle[library, workers] = pool

    def __enter__(self) -> "Pools":
        return self

    def __exit__(self, *exc: object) -> None:
        for pool in self.idle.values():
            pool.shutdown()


# --- The machine ------------------------------------------------------------------------------------------------------


class Latch:
    """A gate that opens once, as the machine knows threads' gates."""

    def __init__(self) -> None:
        self.gate = tasks.Gate()
        self.reached = False
        self.opened = False

    def has_been_reached(self) -> bool:
        self.reached = self.reached or self.gate.has_started()
        return self.reached

    def is_set(self) -> bool:
        return self.opened

    def set(self) -> None:
        if not self.opened:
            self.opened = True
            self.gate.open()

    def close(self) -> None:
        self.gate.__exit__()


class ProcessTask(Task):
    def __init__(self, task: Task, stops: bool) -> None:
        super().__init__(task.key)
        self.latch = self.gate = Latch() if stops else None  # type: ignore[assignment]

    def stopped(self) -> bool:
        latch = self.latch
        if latch is None or latch.is_set() or self.future is None or self.future.done():
            return False
        return latch.has_been_reached()


def blank_death(seen: Any) -> Any:
    """Replaces what tells of a dead worker: pyconc's WorkerDied is a BrokenProcessPool, and says more."""
    return "a dead worker" if "WorkerDied" in str(seen) or "BrokenProcessPool" in str(seen) else seen


class ProcessMachine(Machine):
    """Runs one program on one library, in a pool that others have used before."""

    def __init__(self, library: Library, workers: int, pools: Pools, log: Log) -> None:
        self.pools = pools
        self.ended = False  # the pool can be used no more
        self.latches: list[Latch] = []
        super().__init__(library, workers, None, log)
        self.mortals.clear()  # of pools, but for those that a program forgets

    def _new_pool(self) -> Any:
        return self.pools.take(self.library, self.workers)

    def submit(self, body: Step, parent: Task | None = None) -> Any:
        stops, _, (end, number) = body
        pool = self.pool
        if pool is None:
            return "no pool"
        task = ProcessTask(self.new_task(parent), stops)
        with self.lock:
            self.tasks[task.key] = task
        if task.latch is not None:
            self.latches.append(task.latch)
        value = ERRORS[number](number) if end == "raise" else self.value(number)
        call, last = (tasks.end_process_after, number) if end == "die" else (tasks.wait_and_tell, value)
        did = outcome(pool.submit, call, task.latch and task.latch.gate, last)
        del value, last
        if did[0] == "raised":
            self.forget_task(task)
            return did
        with self.lock:
            self.events += 1
            task.future = did[1]
        return "submitted"

    def effect(self, task: Task, effect: Step, targets: list[Task]) -> None:
        if self.workers > 1 or self.cancelling:
            return
        in_main = threading.current_thread() is self.main
        if effect[0] == "shutdown" and self.pool is not None:
            self.ended = True
            self.pool.shutdown(wait=False)
        elif effect[0] == "submit" or in_main:
            super().effect(task, effect, targets)

    def settled(self) -> bool:
        with self.lock:
            events, tasks = self.events, list(self.tasks.values())
        if any(task.future is None for task in tasks):
            return False
        all_stopped = sum(task.stopped() for task in tasks) == self.workers
        if not all(task.stopped() or self.is_at_rest(task, all_stopped) for task in tasks):
            return False
        if sum(record[0] == "ERROR" for record in self.log.records) < self.failures_due:
            return False
        with self.lock:
            return events == self.events

    def is_at_rest(self, task: Task, all_stopped: bool) -> bool:
        state = task.future._state
        if state in ("PENDING", "RUNNING"):
            return state == "PENDING" and all_stopped
        # Workers do not wait until callbacks have been called, as threads do.
        return task.callbacks_run == task.callbacks_due and (all_stopped or state != "CANCELLED")

    def note(self, task: Task, *what: Any) -> None:
        if self.cancelling:
            # Which thread calls back, in which order, and what wait() is told, is the library's own affair.
            what = what[:2]
        # Nor when it tells those who wait.
        super().note(task, *[word.removesuffix("_AND_NOTIFIED") if isinstance(word, str) else word for word in what])
        if self.cancelling:
            with self.lock:
                self.notes[-1] = self.notes[-1][:-1]
                self.notes.sort(key=str)

    def look(self) -> list[Any]:
        seen = []
        for key, state, *rest in super().look_at_futures():
            seen.append((key, state.removesuffix("_AND_NOTIFIED"), *map(blank_death, rest)))
        if self.pool is not None:
            # The oracle calls one that is broken shut down, too.
            seen.append((bool(self.pool._shutdown_thread or self.pool._broken), bool(self.pool._broken)))
        return seen

    def step(self, step: Step) -> None:
        super().step(step)
        *seen, log = self.diary[-1]
        self.diary[-1] = (*seen, [(level, blank_death(text), error) for level, text, error in log])

    def step_result(self, number: int) -> Any:
        return blank_death(super().step_result(number))

    def step_exception(self, number: int) -> Any:
        return blank_death(super().step_exception(number))

    def some(self, targets: list[Task], numbers: tuple[int, ...]) -> list[Task]:
        return super().some([task for task in targets if self.choosable(task)], numbers)

    def choosable(self, task: Task) -> bool:
        return not (self.avoids_cancelled and task.future.cancelled())

    avoids_cancelled = False

    def without_cancelled(self, step: Callable[..., Any], *args: Any) -> Any:
        self.avoids_cancelled = True
        try:
            return step(*args)
        finally:
            self.avoids_cancelled = False

    def step_mark(self, number: int) -> Any:
        return self.without_cancelled(super().step_mark, number)

    def step_wait(self, numbers: tuple[int, ...], return_when: str) -> Any:
        return self.without_cancelled(super().step_wait, numbers, return_when)

    def step_as_completed(self, numbers: tuple[int, ...]) -> Any:
        return self.without_cancelled(super().step_as_completed, numbers)

    def step_die(self) -> Any:
        """Has a worker die with a task queued up behind it, when all others are done.

        Were the call before it to end only now, its callbacks would run beside the death: they may submit a task before
        the pool is broken, or after.
        """
        if self.workers > 1 or self.pool is None:
            return None
        self.ended = True
        self.open_everything()
        did = [self.submit((True, (), ("die", 1))), self.submit((False, (), ("return", 1)))]
        self.open_everything()
        return did

    def shutdown(self, cancel: bool) -> None:
        self.ended = True
        queued = [task for task in self.choice_of_targets() if task.future._state in ("PENDING", "CANCELLED")]
        self.cancelling = cancel
        self.pool.shutdown(wait=False, cancel_futures=cancel)
        if cancel:
            wait_until(lambda: all(task.future.cancelled() for task in queued))
            wait_until(lambda: all(task.callbacks_run == task.callbacks_due for task in queued))
        self.cancelling = False
        if cancel and not self.library.newest:
            for task in queued:
                if task.future._state == "CANCELLED":
                    task.future.set_running_or_notify_cancel()

    def step_shutdown(self, cancel: bool) -> Any:
        if self.pool is not None and not self.pool._shutdown_thread:  # a second one that cancels is not heard
            self.threads.append(self.pool._executor_manager_thread)
            self.shutdown(cancel)

    def step_shutdown_and_wait(self) -> Any:
        self.open_everything()
        if self.pool is not None:
            self.ended = True
            self.threads.append(self.pool._executor_manager_thread)
            self.pool.shutdown()

    def step_forget_the_pool(self) -> None:
        if self.pool is not None:
            self.ended = True
            self.threads.append(self.pool._executor_manager_thread)
            self.pool = None

    def finish(self) -> None:
        self.step(("open everything",))
        if self.ended and self.pool is not None:
            self.threads.append(self.pool._executor_manager_thread)
            self.pool.shutdown()
        for thread in filter(None, self.threads):
            thread.join()
        for thread, result in self.watchers:
            thread.join()
            self.diary.append(self.keys(result))
        self.diary.append(self.look())
        assert all(task.future._waiters == [] for task in self.tasks.values())
        if not self.ended:
            self.pools.give_back(self.library, self.workers, self.pool)
        self.pool = None

    def step_open_everything(self) -> None:
        self.open_everything()

    def abort(self) -> None:
        """Lets everything end; a pool that is still here has met a failure."""
        for latch in self.latches:
            latch.set()
        if self.pool is not None:
            self.pool.shutdown()
        for latch in self.latches:
            latch.close()


def run_process_program(library: Library, workers: int, pools: Pools, program: list[Step]) -> list[Any]:
    """Runs a program and returns its diary."""
    with Log() as log:
        machine = ProcessMachine(library, workers, pools, log)
        try:
            for step in program:
                machine.step(step)
            machine.finish()
        finally:
            machine.abort()
    return machine.diary
