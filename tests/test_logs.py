"""forward_logs=True: what workers log is handled by the program, in order, and before the results of their calls."""

import asyncio
import functools
import inspect
import logging
import multiprocessing
import os
import pickle
import signal
import threading

import jobs
import pytest
from gates import ProcessGate
from support import more_rounds, run_script, wait_until

import pyconc
from pyconc import _logs

log = logging.getLogger("pyconc_tests.logs")

SPAWN = multiprocessing.get_context("spawn")


class Kept(logging.Handler):
    """A handler that keeps what it handles, and then does something."""

    def __init__(self, then=None):
        super().__init__()
        self.records = []
        self._then = then

    def emit(self, record):
        self.records.append(record)
        if self._then is not None:
            self._then(record)

    def messages(self):
        return [record.getMessage() for record in self.records]


@pytest.fixture
def handler():
    yield from listening(Kept())


def listening(handler):
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.removeHandler(handler)
    log.setLevel(logging.NOTSET)


def with_each_pool(test):
    """Gives a test, as `submit`, what calls a function in a worker of either kind; see pools.with_pool()."""

    def run(kind, **fixtures):
        Executor = pyconc.ProcessPoolExecutor if kind == "processes" else pyconc.CoroutinePool
        with Executor(1, forward_logs=True) as pool:
            test(pool.submit if kind == "processes" else functools.partial(pool.submit, in_coroutine), **fixtures)

    _, *others = inspect.signature(test).parameters.values()
    kind = inspect.Parameter("kind", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    run.__name__ = test.__name__
    run.__signature__ = inspect.Signature([kind, *others])
    return pytest.mark.parametrize("kind", ["processes", "coroutines"])(run)


async def in_coroutine(function, *args):
    return function(*args)


def count(number, text="record %d"):
    for i in range(number):
        log.info(text, i)
    return os.getpid()


@with_each_pool
def test_records_are_handled_before_the_result(submit, handler):
    for _ in range(50):
        submit(count, 3).result()
        assert handler.messages() == ["record 0", "record 1", "record 2"]
        handler.records.clear()


def test_records_are_handled_before_callbacks_and_loops_hear(handler):
    async def main():
        async with pyconc.ProcessPoolExecutor(2, forward_logs=True) as pool:
            await asyncio.gather(*[pool.run(count, 2) for _ in range(20)])
            assert len(handler.records) == 40

    asyncio.run(main())


@pytest.mark.parametrize("method", ["spawn", "fork", pytest.param("forkserver", marks=pytest.mark.slow)])
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_workers_are_started_in_any_way(method, handler):
    import multiprocessing

    with pyconc.ProcessPoolExecutor(1, multiprocessing.get_context(method), forward_logs=True) as pool:
        pid = pool.submit(count, 2).result()
    assert [(record.process, record.args) for record in handler.records] == [(pid, (0,)), (pid, (1,))]


class Unreadable:
    """What has no pickle, or one that nobody can read."""

    def __init__(self, has_pickle):
        self.has_pickle = has_pickle

    def __reduce__(self):
        if self.has_pickle:
            return jobs.fail, (LookupError("unreadable"),)
        raise TypeError("no pickle")

    def __repr__(self):
        return "<unreadable>"


def log_all_kinds():
    log.info("plain %s %d %.1f", "text", 7, 1.5)
    log.info("%(key)s", {"key": [1, 2]})
    log.info([1, "list"])
    for has_pickle in (True, False):
        log.warning("this: %r", Unreadable(has_pickle), extra={"request": Unreadable(has_pickle), "number": 5})
    log.info("x" * 1_000_000)
    try:
        raise LookupError("as it should")
    except LookupError:
        log.exception("it failed", stack_info=True)


@with_each_pool
def test_records_are_what_they_were_or_text(submit, handler):
    submit(log_all_kinds).result()
    plain, keyed, listed, *unreadable, long, failed = handler.records
    assert (plain.msg, plain.args) == ("plain %s %d %.1f", ("text", 7, 1.5))
    assert (keyed.msg, keyed.args) == ("%(key)s", {"key": [1, 2]})
    assert listed.msg == [1, "list"]
    for record in unreadable:
        assert (record.msg, record.args, record.request, record.number) == (
            "this: <unreadable>",
            None,
            "<unreadable>",
            5,
        )
        assert (record.levelno, record.funcName, record.name) == (logging.WARNING, "log_all_kinds", log.name)
    assert long.getMessage() == "x" * 1_000_000
    text = logging.Formatter().format(failed)
    assert "it failed\nTraceback" in text
    assert text.count("LookupError: as it should") == 1
    assert "Stack (most recent call last)" in text


def log_at_all_levels():
    log.debug("debug")
    log.info("info")
    logging.getLogger("pyconc_tests.logs.below").warning("below")
    logging.getLogger("pyconc_tests.logs.quiet").warning("quiet")


@with_each_pool
def test_levels_and_filters_of_the_program_decide(submit, handler):
    quiet = logging.getLogger("pyconc_tests.logs.quiet")
    quiet.setLevel(logging.ERROR)
    try:
        submit(log_at_all_levels).result()
        assert handler.messages() == ["info", "below"]
        log.setLevel(logging.WARNING)
        submit(log_at_all_levels).result()
        assert handler.messages()[2:] == ["below"]
        log.setLevel(logging.INFO)
        submit(log_at_all_levels).result()
        assert handler.messages()[3:] == ["info", "below"]
        handler.addFilter(lambda record: record.msg != "info")
        submit(log_at_all_levels).result()
        assert handler.messages()[5:] == ["below"]
    finally:
        quiet.setLevel(logging.NOTSET)


def test_a_call_that_runs_follows_when_levels_change(handler):
    with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool, ProcessGate() as gate:
        future = pool.submit(log_when_wanted, gate)
        gate.wait_started()
        log.setLevel(logging.DEBUG)
        gate.open()
        future.result()
    assert handler.messages() == ["wanted"]


def log_when_wanted(gate):
    log.debug("not wanted")
    gate()
    log.debug("wanted")


def names_of_enabled(*names):
    return [name for name in names if logging.getLogger(name).isEnabledFor(logging.INFO)]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_workers_follow_each_change(method, handler):
    first, second = "pyconc_tests.logs.first", "pyconc_tests.logs.second"
    context = multiprocessing.get_context(method)
    with pyconc.ProcessPoolExecutor(1, context, forward_logs=True) as pool:
        try:
            assert pool.submit(names_of_enabled, first, second).result() == [first, second]
            logging.getLogger(first).setLevel(logging.ERROR)
            assert pool.submit(names_of_enabled, first, second).result() == [second]
            logging.disable(logging.WARNING)
            assert pool.submit(names_of_enabled, first, second).result() == []
            logging.disable(logging.NOTSET)
            logging.getLogger(first).setLevel(logging.NOTSET)
            assert pool.submit(names_of_enabled, first, second).result() == [first, second]
            # What a worker decides itself holds until the program does.
            pool.submit(log.setLevel, logging.ERROR).result()
            logging.getLogger(first).setLevel(logging.INFO)
            assert pool.submit(names_of_enabled, first, second).result() == [first]
            log.setLevel(logging.DEBUG)
            assert pool.submit(names_of_enabled, first, second).result() == [first, second]
        finally:
            logging.disable(logging.NOTSET)
            logging.getLogger(first).setLevel(logging.NOTSET)


def test_a_worker_that_comes_later_has_the_levels_of_then(handler):
    with pyconc.ProcessPoolExecutor(1, forward_logs=True, max_tasks_per_child=1, mp_context=SPAWN) as pool:
        assert pool.submit(names_of_enabled, log.name).result() == [log.name]
        log.setLevel(logging.ERROR)
        assert pool.submit(names_of_enabled, log.name).result() == []


def test_levels_are_followed_that_several_threads_change(handler):
    names = [f"pyconc_tests.logs.of_{i}" for i in range(4)]

    def change(name):
        for level in [logging.ERROR, logging.NOTSET] * 50:
            logging.getLogger(name).setLevel(level)

    with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
        threads = [threading.Thread(target=change, args=[name]) for name in names]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            pool.submit(names_of_enabled, *names).result()
        for thread in threads:
            thread.join()
        assert pool.submit(names_of_enabled, *names).result() == names


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_the_child_of_a_fork_changes_levels_for_itself(handler):
    with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
        assert pool.submit(names_of_enabled, log.name).result() == [log.name]
        child = os.fork()
        if child == 0:
            log.setLevel(logging.ERROR)
            os._exit(0)
        os.waitpid(child, 0)
        assert pool.submit(names_of_enabled, log.name).result() == [log.name]


def test_a_handler_that_a_worker_has_by_a_fork_handles_nothing_there(tmp_path):
    written = logging.FileHandler(tmp_path / "log")
    log.addHandler(written)
    try:
        with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
            pool.submit(log.error, "once").result()
    finally:
        log.removeHandler(written)
        written.close()
    assert (tmp_path / "log").read_text() == "once\n"


def test_without_it_workers_log_for_themselves(handler):
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(count, 1).result()
    assert handler.records == []


@pytest.mark.parametrize("Executor", [pyconc.ProcessPoolExecutor, pyconc.CoroutinePool])
@pytest.mark.parametrize("forward_logs", [1, None, "yes"])
def test_what_is_no_bool_is_refused(Executor, forward_logs):
    with pytest.raises(TypeError, match="forward_logs must be a bool, not"):
        Executor(1, forward_logs=forward_logs)


def check_order(records, complete=True):
    """Those of each process are 0, 1, 2, ..."""
    by_process = {}
    for record in records:
        by_process.setdefault(record.process, []).append(record.args[0])
    for numbers in by_process.values():
        assert numbers == list(range(len(numbers)))
    return by_process


@pytest.mark.parametrize("number", [1_000, pytest.param(50_000, marks=more_rounds)])
def test_records_of_each_worker_come_in_order(number, handler):
    with pyconc.ProcessPoolExecutor(2, forward_logs=True) as pool, ProcessGate() as gate:
        futures = [pool.submit(hold_and_count, gate, number) for _ in range(2)]
        gate.wait_started(2)
        gate.open()
        pids = {future.result() for future in futures}
        found = check_order(handler.records)
    assert {pid: len(numbers) for pid, numbers in found.items()} == dict.fromkeys(pids, number)


def hold_and_count(gate, number):
    jobs.hold(gate)
    return count(number)


def count_for_ever(filler):
    number = 0
    while True:
        log.info("record %d %s", number, filler)
        number += 1


@pytest.mark.parametrize("size", [1, 500_000])
def test_a_worker_killed_in_the_middle_loses_no_record_before_that(size, handler):
    with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
        future = pool.submit(count_for_ever, "x" * size)
        wait_until(lambda: len(handler.records) > 20)
        (pid,) = pool._processes
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(pyconc.WorkerDied):
            future.result()
        number = len(handler.records)
        check_order(handler.records)
        assert all(record.args[1] == "x" * size for record in handler.records)
        pool.submit(count, 3).result()
        assert handler.messages()[number:] == ["record 0", "record 1", "record 2"]


@pytest.mark.slow
def test_a_hundred_thousand_records_come_in_order_while_another_worker_is_killed(handler):
    with pyconc.ProcessPoolExecutor(2, forward_logs=True) as pool, ProcessGate() as gate:
        counted = pool.submit(hold_and_count, gate, 100_000)
        (counting,) = gate.wait_started()
        lost = pool.submit(count_for_ever, "x")
        wait_until(lambda: handler.records, "the other worker to log")
        killed = handler.records[0].process
        gate.open()
        wait_until(lambda: handler.records[-1].process == counting and handler.records[-1].args[0] > 20_000)
        os.kill(killed, signal.SIGKILL)
        with pytest.raises(pyconc.WorkerDied):
            lost.result()
        assert not counted.done()  # it is in the middle
        assert counted.result() == counting
        found = check_order(handler.records)
    assert found.keys() == {counting, killed}
    assert len(found[counting]) == 100_000


def log_and_die(*records):
    for level, text, *args in records:
        log.log(level, text, *args)
    os.kill(os.getpid(), signal.SIGKILL)


@with_each_pool
def test_a_death_says_what_was_logged_last(submit, handler):
    died = submit(log_and_die, (logging.INFO, "one"), (logging.WARNING, "page %d of %s", 7, "x" * 100_000)).exception()
    assert died.last_log == f"WARNING:{log.name}:page 7 of {'x' * 100_000}"
    assert pickle.loads(pickle.dumps(died)).last_log == died.last_log
    assert submit(log_and_die).exception().last_log is None  # another worker's
    assert pickle.loads(pickle.dumps(submit(log_and_die).exception())).last_log is None
    odd = submit(log_and_die, (logging.INFO, "%d", "no number")).exception()
    assert odd.last_log == "%d"


def test_a_death_says_nothing_of_logs_that_do_not_come_here():
    with pyconc.ProcessPoolExecutor(1) as pool:
        assert pool.submit(log_and_die, (logging.INFO, "one")).exception().last_log is None


def stop(record):
    raise LookupError("a handler that raises")


@with_each_pool
def test_a_handler_that_raises_is_reported_and_nothing_else(submit, capsys):
    for handler in listening(Kept(stop)):
        submit(count, 2).result()
        assert handler.messages() == ["record 0", "record 1"]
    assert capsys.readouterr().err.count("LookupError: a handler that raises") == 2


def test_a_handler_may_log_and_submit():
    futures = []

    def again(record):
        if record.msg != "again":
            log.info("again")
            futures.append(pool.submit(log.info, "again"))

    for handler in listening(Kept(again)):
        with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
            pool.submit(count, 2).result()
            for future in futures:
                future.result()
        assert sorted(handler.messages()) == ["again"] * 4 + ["record 0", "record 1"]


@pytest.fixture
def impatient(monkeypatch):
    """For handlers that cannot end before the program goes on without them."""
    monkeypatch.setattr(_logs, "_PATIENCE", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_handler_may_wait_for_a_call_that_logs():
    def wait(record):
        if record.msg != "inner":
            found.append(pool.submit(log.info, "inner").result())

    found = []
    for handler in listening(Kept(wait)):
        with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
            pool.submit(log.info, "outer").result()
            wait_until(lambda: found == [None])
        wait_until(lambda handler=handler: sorted(handler.messages()) == ["inner", "outer"])


@pytest.mark.usefixtures("impatient")
def test_a_thread_that_waits_with_the_handlers_lock_is_no_deadlock():
    def wait(record):
        if record.process == os.getpid():
            found.append(pool.submit(log.info, "inner").result())

    found = []
    for handler in listening(Kept(wait)):
        with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
            pool.submit(abs, 1).result()
            log.info("outer")
            assert found == [None]
        wait_until(lambda handler=handler: sorted(handler.messages()) == ["inner", "outer"])


@pytest.mark.usefixtures("impatient")
def test_a_handler_that_hangs_holds_up_no_result_for_ever():
    may_go = threading.Event()
    for handler in listening(Kept(lambda record: may_go.wait(60))):
        with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool:
            assert [pool.submit(count, 1).result() > 0 for _ in range(20)] == [True] * 20
            wait_until(lambda handler=handler: handler.records)
            assert len(handler.records) == 1
            may_go.set()
        wait_until(lambda handler=handler: len(handler.records) == 20)


def log_in_child():
    child = os.fork()
    if child == 0:
        log.info("child")
        os._exit(0)
    os.waitpid(child, 0)
    log.info("parent")


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@with_each_pool
def test_a_process_that_a_task_forks_logs_there_too(submit, handler):
    submit(log_in_child).result()
    assert handler.messages() == ["child", "parent"]


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_fork_of_the_program_takes_nothing(handler):
    with pyconc.ProcessPoolExecutor(1, forward_logs=True) as pool, ProcessGate() as gate:
        future = pool.submit(hold_and_count, gate, 100)
        gate.wait_started()
        child = os.fork()
        if child == 0:
            signal.pause()
        try:
            gate.open()
            future.result()
            assert len(handler.records) == 100
        finally:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
        assert pool.submit(count, 1).result() > 0


def test_what_is_sent_is_handled_at_exit():
    program = """
    import logging, pyconc
    def work():
        for i in range(1000):
            logging.warning("record %d", i)
    if __name__ == "__main__":
        logging.basicConfig(format="%(message)s")
        pyconc.ProcessPoolExecutor(1, forward_logs=True).submit(work)
    """
    assert run_script(program).stderr.splitlines() == [f"record {i}" for i in range(1000)]


def fail_to_begin():
    raise LookupError("no worker here")


def test_an_initializer_that_fails_is_in_the_programs_log(caplog):
    with pyconc.ProcessPoolExecutor(1, initializer=fail_to_begin, forward_logs=True) as pool:
        with pytest.raises(pyconc.BrokenProcessPool):
            pool.submit(abs, 1).result()
    assert "no worker here" in caplog.text


def test_a_queue_waits_for_nothing_unless_told():
    with pyconc.ProcessPoolExecutor(1) as pool:
        called = []
        pool.submit(abs, 1).result()
        pool._tasks.call_before_delivery(lambda: called.append(1))
        assert pool.submit(abs, -1).result() == 1
        assert called
        pool._tasks.call_before_delivery(None)
        called.clear()
        assert pool.submit(abs, -1).result() == 1
        assert not called
