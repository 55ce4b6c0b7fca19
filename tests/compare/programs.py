"""Random programs over an executor, and the machine that runs one.

A program is a list of steps such as `("submit", body)` or `("cancel", 3)`.  The machine runs it on one library and
keeps a diary of everything that can be observed; the diaries of the two libraries must be equal, so nothing in one may
depend on time.  Three rules see to that:

* Tasks stop only at gates, which steps of the program open one at a time.
* After every step the machine waits until the pool is *settled*: each worker stands at a gate, or every future is done.
  Until the next step, nothing happens any more.
* A pool has one or two workers.  With two, which task starts is still determined (the queue is first in, first out),
  but not the order of events in tasks that run side by side: then tasks and callbacks only have effects on themselves,
  and what they note is sorted by task.

Numbers in steps choose from what there is (modulo its size), so every program is valid, also while it is being shrunk.
"""

import gc
import itertools
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ALL_COMPLETED, FIRST_COMPLETED, FIRST_EXCEPTION
from typing import Any

import pytest
from hypothesis import strategies as st
from libraries import Library, Log, blank, outcome
from support import wait_until

Step = tuple[Any, ...]
Key = tuple[int, ...]  # a task's number; (3, 0) is the first task that task 3, or a callback on it, submitted


class Value:
    """What tasks get and return: equal by number, and seen when it dies."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Value) and other.number == self.number

    def __hash__(self) -> int:
        return hash(self.number)

    def __repr__(self) -> str:
        return f"Value({self.number})"


class Escape(BaseException):
    pass


ERRORS = [ValueError, KeyboardInterrupt, SystemExit, StopIteration, GeneratorExit]

# --- Programs ---------------------------------------------------------------------------------------------------------

an_index = st.integers(0, 9)
some_tasks = st.lists(an_index, max_size=4).map(tuple)
an_end = st.one_of(st.tuples(st.just("return"), an_index), st.tuples(st.just("raise"), st.integers(0, len(ERRORS) - 1)))
a_return_when = st.sampled_from([FIRST_COMPLETED, FIRST_EXCEPTION, ALL_COMPLETED])

# What a task does: (stops at a gate first, what it does to others, how it ends).
_simple = st.tuples(st.booleans(), st.just(()), an_end)
_effect = st.one_of(
    st.tuples(st.just("submit"), _simple),
    st.tuples(st.just("cancel"), an_index),
    st.tuples(st.just("wait"), some_tasks),
    st.tuples(st.just("shutdown"), st.booleans()),
)
_bodies = st.tuples(st.booleans(), st.lists(_effect, max_size=2).map(tuple), an_end)

_callback = st.one_of(
    st.just(("note",)), st.just(("fail",)), st.just(("escape",)), st.just(("add",)), st.just(("meddle",)), _effect
)

_often = [
    st.tuples(st.just("submit"), _simple),
    st.tuples(st.just("submit"), _bodies),
    st.tuples(st.just("open"), an_index),
    st.tuples(st.just("callback"), an_index, _callback),
    st.tuples(st.just("cancel"), an_index),
]
_seldom = [
    st.tuples(st.just("submit many"), st.lists(_simple, max_size=6).map(tuple)),
    st.tuples(st.just("result"), an_index),
    st.tuples(st.just("exception"), an_index),
    st.tuples(st.just("mark"), an_index),
    st.tuples(st.just("wait"), some_tasks, a_return_when),
    st.tuples(st.just("as_completed"), some_tasks),
    st.tuples(st.just("watch"), some_tasks),
    st.tuples(st.just("iterate"), some_tasks),
    st.tuples(st.just("map"), st.lists(_simple, max_size=5).map(tuple), st.sampled_from([None, 0, -1])),
    st.tuples(st.just("next"), an_index),
    st.tuples(st.just("close"), an_index),
    st.tuples(st.just("drop"), an_index),
]
_rare = [
    st.tuples(st.just("shutdown"), st.booleans()),
    st.just(("shutdown and wait",)),
    st.just(("forget the pool",)),
]
_step = st.one_of(*_often, *_often, *_often, *_often, *_seldom, *_seldom, *_rare)

configurations = st.tuples(st.sampled_from([1, 1, 2]), st.sampled_from([None, None, None, "succeeds", "fails"]))
# Several steps in a row about one task meet more often than chance would have it.
_about_one = st.one_of(
    st.tuples(st.just("callback"), _callback),
    st.just(("cancel",)),
    st.just(("cancel",)),
    st.just(("open",)),
    st.just(("result",)),
    st.just(("mark",)),
)
_story = st.builds(
    lambda number, steps: [(step[0], number, *step[1:]) for step in steps],
    an_index,
    st.lists(_about_one, min_size=2, max_size=4),
)
_chapter = st.one_of(_step.map(lambda step: [step]), _step.map(lambda step: [step]), _story)

# Most programs begin with busy workers and tasks that queue up behind them.
_gate = (True, (), ("return", 0))
_beginning = st.sampled_from([[], [("submit", _gate)], [("submit", _gate)] * 2])
_chapters = st.integers(1, 16).flatmap(lambda size: st.lists(_chapter, min_size=size, max_size=size))
programs = st.builds(lambda *parts: [*parts[0], *itertools.chain(*parts[1])], _beginning, _chapters)

# --- The machine ------------------------------------------------------------------------------------------------------


class Task:
    """A submitted task as the machine knows it."""

    def __init__(self, key: Key) -> None:
        self.key = key
        self.future: Any = None  # until submit returned it
        self.gate = threading.Event()
        self.at_gate = False
        self.callbacks_due = 0
        self.callbacks_run = 0
        self.children = itertools.count()

    def stopped(self) -> bool:
        return self.at_gate and not self.gate.is_set()

    def settled(self) -> bool:
        return self.callbacks_run == self.callbacks_due and self.future._state in ("FINISHED", "CANCELLED_AND_NOTIFIED")


class Machine:
    """Runs one program on one library."""

    def __init__(self, library: Library, workers: int, initializer: str | None, log: Log) -> None:
        self.library, self.workers, self.initializer, self.log = library, workers, initializer, log
        self.lock = threading.Lock()
        self.main = threading.current_thread()
        self.tasks: dict[Key, Task] = {}
        self.events = 0  # what happened to the books; see settle()
        self.may_fail = threading.Event()
        self.failures_due = 0  # of callbacks, to be logged
        self.cancelling = False  # inside a shutdown that cancels, which holds a lock in the oracle
        self.notes: list[Any] = []  # since the last step: (key, ...)
        self.diary: list[Any] = []
        self.mortals: list[weakref.ref[Any]] = []  # arguments, results and the pool: nobody may keep them
        self.maps: list[Any] = []
        self.threads: list[threading.Thread] = []
        self.watchers: list[tuple[threading.Thread, list[Any]]] = []
        self.numbers = itertools.count()
        self.pool: Any = self._new_pool()
        self.mortals.append(weakref.ref(self.pool))

    def _new_pool(self) -> Any:
        machine = self

        class Pool(self.library.ThreadPoolExecutor):
            """Tells the machine of the futures that map() submits."""

            def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
                future = super().submit(fn, *args, **kwargs)
                if isinstance(fn, MapCall):
                    args[0].future = future
                return future

        initializers: dict[str | None, Any] = {
            None: None,
            "succeeds": lambda: None,
            "fails": lambda: machine.fail(),
        }
        cls = self.library.ThreadPoolExecutor if self.initializer == "succeeds" else Pool
        return cls(self.workers, initializer=initializers[self.initializer])

    def fail(self) -> None:
        self.may_fail.wait()  # so that the first submit has returned
        raise LookupError

    # --- Tasks ---

    def value(self, number: int) -> Value:
        value = Value(number)
        self.mortals.append(weakref.ref(value))
        return value

    def new_task(self, parent: Task | None = None) -> Task:
        with self.lock:
            key = (next(self.numbers),) if parent is None else (*parent.key, next(parent.children))
            self.events += 1
            task = self.tasks[key] = Task(key)
        return task

    def forget_task(self, task: Task) -> None:
        with self.lock:
            self.events += 1
            del self.tasks[task.key]

    def submit(self, body: Step, parent: Task | None = None) -> Any:
        """Submits a task, from a step or (with a parent) from a task or a callback."""
        task = self.new_task(parent)
        targets = self.choice_of_targets()
        pool = self.pool
        if pool is None:
            self.forget_task(task)
            return "no pool"
        did = outcome(lambda: pool.submit(self.run, task, body, targets, value=self.value(-1)))
        if did[0] == "raised":
            self.forget_task(task)
            return did
        task.future = did[1]
        with self.lock:
            self.events += 1
        return "submitted"

    def run(self, task: Task, body: Step, targets: list[Task], *, value: Value) -> Value:
        stops, effects, (end, number) = body
        if stops:
            with self.lock:
                task.at_gate = True
                self.events += 1
            task.gate.wait()
        for effect in effects:
            self.effect(task, effect, targets)
        if end == "raise":
            raise ERRORS[number](number)
        return self.value(number)

    def effect(self, task: Task, effect: Step, targets: list[Task]) -> None:
        """What a task or a callback does to others."""
        if self.workers > 1 or self.initializer == "fails":
            return
        if effect[0] == "submit" and not self.cancelling:
            self.note(task, "submitted", self.submit(effect[1], parent=task))
        elif effect[0] == "cancel" and targets:
            target = targets[effect[1] % len(targets)]
            self.note(task, "cancelled", target.key, target.future.cancel())
        elif effect[0] == "wait" and not self.cancelling:
            fs = [target.future for target in self.some(targets, effect[1])]
            self.note(task, "saw done", self.keys(self.library.wait(fs, timeout=0).done))
        elif effect[0] == "shutdown" and not self.cancelling and self.pool is not None:
            self.shutdown(cancel=effect[1])

    def note(self, task: Task, *what: Any) -> None:
        with self.lock:
            self.notes.append((task.key, *what, threading.current_thread() is self.main))

    # --- Choosing ---

    def choice_of_targets(self) -> list[Task]:
        """The tasks there are, for who chooses one of them now or later."""
        with self.lock:
            return sorted((task for task in self.tasks.values() if task.future is not None), key=lambda task: task.key)

    def some(self, tasks: list[Task], numbers: tuple[int, ...]) -> list[Task]:
        return [tasks[number % len(tasks)] for number in numbers] if tasks else []

    def keys(self, futures: Any) -> list[Key]:
        names = {id(task.future): task.key for task in self.tasks.values()}
        return sorted(names[id(future)] for future in futures)

    # --- Settling ---

    def settled(self) -> bool:
        with self.lock:
            events, tasks = self.events, list(self.tasks.values())
        if any(task.future is None for task in tasks):
            return False
        all_stopped = sum(task.stopped() for task in tasks) == self.workers
        if not all_stopped and not all(task.stopped() or task.settled() for task in tasks):
            return False
        if sum(record[0] == "ERROR" for record in self.log.records) < self.failures_due:
            return False
        # Had anything begun meanwhile, it would have left its mark before what we saw ended.
        with self.lock:
            return events == self.events

    def settle(self) -> None:
        if self.tasks:
            self.may_fail.set()
        try:
            wait_until(self.settled, "a settled pool")
        except pytest.fail.Exception as error:
            raise AssertionError(f"{error}; the diary: {self.diary}; its tasks: {self.look()}") from None

    def look(self) -> list[Any]:
        """Everything to be seen of the futures and the pool."""
        seen = self.look_at_futures()
        if self.pool is not None:
            seen.append((self.pool._shutdown, bool(self.pool._broken)))
        return seen

    def look_at_futures(self) -> list[Any]:
        seen: list[Any] = []
        for task in self.choice_of_targets():
            future = task.future
            if future.done():
                result = outcome(future.exception if future.cancelled() or future.exception() else future.result)
                result = repr(result[1])
            else:
                result = outcome(future.result, 0)
            seen.append((task.key, future._state, result, blank(repr(future))))
        return seen

    # --- Steps ---

    def step(self, step: Step) -> None:
        name, *args = step
        did = getattr(self, "step_" + name.replace(" ", "_"))(*args)
        self.settle()
        if self.workers > 1:
            self.notes.sort(key=lambda note: note[0])
            self.log.records.sort(key=str)
        self.diary.append((step, did, self.notes, self.look(), list(self.log.records)))
        self.notes = []

    def step_submit(self, body: Step) -> Any:
        return self.submit(body)

    def step_submit_many(self, bodies: tuple[Step, ...]) -> Any:
        did = []
        for body in bodies:
            did.append(self.submit(body))
            if self.initializer == "fails":
                self.settle()  # the first breaks the pool for the others, sooner or later
        return did

    def step_open(self, number: int) -> Any:
        closed = [task for task in self.choice_of_targets() if task.stopped()]
        for task in self.some(closed, (number,)):
            task.gate.set()
            return task.key

    def step_cancel(self, number: int) -> Any:
        return [task.future.cancel() for task in self.some(self.choice_of_targets(), (number,))]

    def step_callback(self, number: int, kind: Step) -> Any:
        targets = self.choice_of_targets()
        for task in self.some(targets, (number,)):
            if kind == ("escape",) and not task.future.done():
                return None  # a BaseException in a worker is one of the announced differences
            with self.lock:
                self.events += 1
                task.callbacks_due += 1
            return outcome(task.future.add_done_callback, self.make_callback(task, kind, targets))

    def make_callback(self, task: Task, kind: Step, targets: list[Task]) -> Callable[[Any], None]:
        identity = len(self.diary)  # which step added it

        def callback(future: Any) -> None:
            try:
                self.note(task, "callback", identity, future is task.future or task.future is None, future._state)
                if kind[0] == "fail":
                    with self.lock:
                        self.failures_due += 1
                    raise LookupError(identity)
                if kind[0] == "escape":
                    raise Escape
                if kind[0] == "add":
                    future.add_done_callback(lambda future: self.note(task, "inner callback", identity))
                elif kind[0] == "meddle":
                    self.note(task, outcome(future.cancel), outcome(future.set_result, 1)[:2])
                elif kind[0] != "note":
                    self.effect(task, kind, targets)
            finally:
                with self.lock:
                    self.events += 1
                    task.callbacks_run += 1

        return callback

    def step_result(self, number: int) -> Any:
        for task in self.some(self.choice_of_targets(), (number,)):
            did = outcome(task.future.result, None if task.future.done() else 0)
            return did if did[0] == "raised" else repr(did[1])

    def step_exception(self, number: int) -> Any:
        for task in self.some(self.choice_of_targets(), (number,)):
            did = outcome(task.future.exception, None if task.future.done() else 0)
            return did if did[0] == "raised" else repr(did[1])

    def step_mark(self, number: int) -> Any:
        """Calls what only executors should call, where it does not cross one at work."""
        for task in self.some(self.choice_of_targets(), (number,)):
            if task.future._state in ("PENDING", "CANCELLED"):
                return None
            return outcome(task.future.set_running_or_notify_cancel)

    def step_wait(self, numbers: tuple[int, ...], return_when: str) -> Any:
        fs = [task.future for task in self.some(self.choice_of_targets(), numbers)]
        done, not_done = self.library.wait(fs, 0, return_when)
        return self.keys(done), self.keys(not_done)

    def step_as_completed(self, numbers: tuple[int, ...]) -> Any:
        fs = [task.future for task in self.some(self.choice_of_targets(), numbers)]
        completed: list[Any] = []
        return outcome(lambda: completed.extend(self.library.as_completed(fs, timeout=0))), self.keys(completed)

    def step_watch(self, numbers: tuple[int, ...]) -> None:
        """Waits in a thread of its own for futures that the rest of the program finishes."""
        fs = [task.future for task in self.some(self.choice_of_targets(), numbers)]
        self.watch(lambda: self.library.wait(fs).done)

    def step_iterate(self, numbers: tuple[int, ...]) -> None:
        fs = [task.future for task in self.some(self.choice_of_targets(), numbers)]
        self.watch(lambda: list(self.library.as_completed(fs)))

    def watch(self, call: Callable[[], Any]) -> None:
        result: list[Any] = []
        thread = threading.Thread(target=lambda: result.extend(call()))
        thread.start()
        self.watchers.append((thread, result))

    def step_map(self, bodies: tuple[Step, ...], timeout: float | None) -> Any:
        if self.pool is None or self.initializer is not None:
            return None  # the futures inside must be recorded, and a pool that breaks meanwhile is a race
        tasks = [self.new_task() for _ in bodies]
        did = outcome(lambda: self.pool.map(MapCall(self), tasks, bodies, timeout=timeout))
        if did[0] == "raised":
            for task in tasks:
                self.forget_task(task)
            return did
        with self.lock:
            self.events += 1
        self.maps.append((did[1], iter(tasks), timeout))

    def step_next(self, number: int) -> Any:
        if not self.maps:
            return None
        results, tasks, timeout = self.maps[number % len(self.maps)]
        task = next(tasks, None)
        if task is not None and timeout is None and not task.future.done():
            self.maps[number % len(self.maps)] = (results, itertools.chain([task], tasks), timeout)
            return None
        did = outcome(next, results)
        return did if did[0] == "raised" else repr(did[1])

    def step_close(self, number: int) -> Any:
        if self.maps:
            return outcome(self.maps[number % len(self.maps)][0].close)

    def step_drop(self, number: int) -> None:
        if self.maps:
            del self.maps[number % len(self.maps)]

    def shutdown(self, cancel: bool) -> None:
        queued = [task for task in self.choice_of_targets() if task.future._state in ("PENDING", "CANCELLED")]
        self.cancelling = cancel
        self.pool.shutdown(wait=False, cancel_futures=cancel)
        self.cancelling = False
        if cancel and not self.library.newest:
            # An announced difference: in the oracle, wait() would never hear of these.
            for task in queued:
                if task.future._state == "CANCELLED":
                    task.future.set_running_or_notify_cancel()

    def step_shutdown(self, cancel: bool) -> Any:
        if self.pool is not None:
            self.shutdown(cancel)

    def step_shutdown_and_wait(self) -> Any:
        self.open_everything()
        if self.pool is not None:
            self.pool.shutdown()
            return any(thread.is_alive() for thread in self.pool._threads)

    def step_forget_the_pool(self) -> None:
        if self.pool is not None:
            self.threads = list(self.pool._threads)
            self.pool = None

    # --- The end ---

    def open_everything(self) -> None:
        self.settle()
        while any(task.stopped() for task in self.choice_of_targets()):
            self.step_open(0)
            self.settle()

    def finish(self) -> None:
        """Lets everything end, and looks at what is left."""
        self.step(("shutdown and wait",))
        for thread, result in self.watchers:
            thread.join()
            self.diary.append(self.keys(result))
        for thread in self.threads:
            thread.join()
        self.diary.append(self.look())
        for task in self.tasks.values():
            assert task.future._waiters == []

    def abort(self) -> None:
        """After a failure: lets the threads end."""
        self.may_fail.set()
        for task in self.tasks.values():
            task.gate.set()


class MapCall:
    """What programs map: takes the task and its body from the two iterables."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def __call__(self, task: Task, body: Step) -> Any:
        return self.machine.run(task, body, [], value=self.machine.value(-1))


def run_program(library: Library, configuration: tuple[int, str | None], program: list[Step]) -> list[Any]:
    """Runs a program and returns its diary, after having checked that nothing of it is left."""
    with Log() as log:
        machine = Machine(library, *configuration, log)
        try:
            for step in program:
                machine.step(step)
            machine.finish()
        finally:
            machine.abort()
    diary, mortals = machine.diary, machine.mortals
    del machine, log
    for generation in (0, 1, 2):  # exceptions make cycles with the frames in their tracebacks; young ones go quickly
        if any(reference() is not None for reference in mortals):
            gc.collect(generation)
    assert not any(reference() is not None for reference in mortals)
    return diary
