"""pyconc.Manager(): the standard manager's methods, on shared memory; the standard manager is the oracle."""

import array
import copy
import multiprocessing
import multiprocessing.managers
import os
import queue
import signal
import sys
from multiprocessing import ProcessError

import pytest
from support import run_script

import pyconc
from pyconc import shared
from pyconc.multiprocessing import _proxies, managers

# pytest's hang guard is a thread.
pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded, use of fork:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The 'u' type code is deprecated:DeprecationWarning"),
]

fork = multiprocessing.get_context("fork")


@pytest.fixture
def manager():
    with pyconc.Manager() as manager:
        yield manager


def test_it_has_what_the_standard_manager_has(manager):
    public = {name for name in dir(multiprocessing.managers.SyncManager) if not name.startswith("_")}
    assert public <= set(dir(manager))
    for kind in ("ListProxy", "DictProxy", "ArrayProxy", "ValueProxy", "NamespaceProxy"):
        standard = getattr(multiprocessing.managers, kind)
        exposed = set(getattr(standard, "_exposed_", ())) - {"__getattribute__"}
        assert exposed <= set(dir(getattr(_proxies, kind))), kind
    assert set(multiprocessing.managers.__all__) <= set(dir(managers))
    assert managers.BaseManager is multiprocessing.managers.BaseManager


def use(manager):
    """Does with a manager's objects what programs do, and returns all that it sees."""
    items, table = manager.list([1, "a"]), manager.dict({"a": 1}, b=[2])
    value, array_, names = manager.Value("i", 5), manager.Array("h", range(4)), manager.Namespace(x=1, y="z")
    seen = [items + [2], items * 2, items[::-1], items._getvalue(), items._callmethod("index", ("a",)), str(items)]
    items += (3, 4)
    items *= 2
    seen += [list(reversed(items)), len(items), items.count(3), "a" in items, copy.deepcopy(items)]
    seen += [table.keys(), table.values(), table.items(), table.setdefault("c", 3), table.pop("zz", None)]
    seen += [str(table), dict(table), list(table), sorted(table.copy()), table.get("q"), "a" in table, {**table}]
    value.value += 1
    seen += [value.get(), value.value, str(value)]
    value.set({"any": "object"})
    array_[1] = -7
    array_[2:] = array.array("h", (8, 9))
    seen += [value.value, list(array_), array_[1:3], str(array_), len(array_), copy.deepcopy(array_)]
    names.x += 1
    names._own = 5
    del names.y
    seen += [names.x, names._own, hasattr(names, "y"), hasattr(names, "_not"), str(names)]
    seen += [names._callmethod("__getattribute__", ("x",)), names._callmethod("__setattr__", ("x", 7)), names.x]
    return seen


def test_its_objects_do_what_the_standard_ones_do(manager):
    with multiprocessing.Manager() as standard:
        assert use(manager) == use(standard)


def change(items, table, value, numbers, names, jobs, done):
    items.append(2)
    table["a"] = [1]
    value.value += 1
    numbers[0] = 7
    names.x = "new"
    jobs.put(jobs.get() * 2)
    done.set()


def test_its_objects_are_shared_with_pools_and_processes(manager):
    objects = (manager.list([1]), manager.dict(), manager.Value("i", 1), manager.Array("i", [0]), manager.Namespace())
    jobs, done = manager.JoinableQueue(), manager.Event()
    jobs.put(21)
    with pyconc.ProcessPoolExecutor(max_workers=1) as pool:
        pool.submit(change, *objects, jobs, done).result()
    process = fork.Process(target=change, args=(*objects, jobs, done))
    process.start()
    process.join()
    items, table, value, numbers, names = objects
    assert (items[:], table.copy(), value.get(), numbers[:].tolist(), names.x) == ([1, 2, 2], {"a": [1]}, 3, [7], "new")
    assert jobs.get() == 84
    assert done.is_set()
    with pytest.raises(queue.Empty):
        jobs.get_nowait()


def test_locks_and_the_like_are_those_of_shared(manager):
    lock = manager.Lock()
    with lock, manager.RLock() as is_held:
        assert is_held
        assert not lock.acquire(False, None)
    assert isinstance(manager.Condition(lock), shared.Condition)
    assert manager.Semaphore(2).get_value() == 2
    with pytest.raises(ValueError, match="too many times"):
        manager.BoundedSemaphore(1).release()
    assert manager.Barrier(1).wait() == 0


def test_numbers_of_an_array_are_checked(manager):
    numbers = manager.Array("b", [1, 2])
    for wrong, error in ((1000, OverflowError), ("a", TypeError)):
        with pytest.raises(error):
            numbers[0] = wrong
        with pytest.raises(error):
            numbers[:] = [0, wrong]
        with pytest.raises(error):
            manager.Array("b", [wrong])
    assert numbers[:] == array.array("b", [1, 2])


def change_inner(table):
    table["items"].append(2)
    table["names"].x = table["value"].value
    table["answers"].put("from the child")
    table["made there"] = shared.Dict(a=[shared.List([1])])


def test_an_object_in_another_is_there_for_all_and_outlives_who_made_it(manager):
    table = manager.dict(items=manager.list([1]), names=manager.Namespace(), value=manager.Value("i", 7))
    table.update(answers=manager.Queue(), ref=shared.share("large"), barrier=manager.Barrier(1))
    table["locks"] = [manager.Lock(), manager.RLock(), manager.Semaphore(2), manager.Condition(), manager.Event()]
    table["numbers"] = manager.Array("i", [1, 2])
    child = fork.Process(target=change_inner, args=(table,))
    child.start()
    child.join()
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(change_inner, table).result()
    assert table["items"][:] == [1, 2, 2]
    assert (table["names"].x, table["ref"].get(), table["barrier"].wait()) == (7, "large", 0)
    assert [table["answers"].get() for _ in range(2)] == ["from the child"] * 2
    assert table["made there"]["a"][0][:] == [1]
    assert table["numbers"][:] == array.array("i", [1, 2])
    for lock in table["locks"][:-1]:
        with lock:
            pass
    assert not table["locks"][-1].is_set()
    table["itself"] = table
    assert len(table["itself"]["itself"]) == len(table)


def test_a_manager_begins_once_and_ends():
    manager = managers.SyncManager()
    with pytest.raises(ProcessError, match="not yet started"):
        manager.list()
    with pytest.raises(TypeError, match="callable"):
        manager.start(5)
    with manager:
        items = manager.list("ab")
        with pytest.raises(ProcessError, match="Already started"):
            manager.start()
    assert manager.address is None
    manager.join()
    for call in (manager.start, manager.dict, manager.Lock, manager.Pool, manager.__enter__):
        with pytest.raises(ProcessError, match="shut down"):
            call()
    manager.shutdown()
    assert items[:] == ["a", "b"]  # what was made stays


def test_a_namespace_names_what_it_does_not_have(manager):
    names = manager.Namespace(x=1)
    del names.x
    for call in (lambda: names.x, lambda: delattr(names, "x"), lambda: names._callmethod("__getattribute__", ("x",))):
        with pytest.raises(AttributeError, match="'Namespace' object has no attribute 'x'"):
            call()


def test_nobody_can_connect_to_it():
    for call in (lambda: managers.SyncManager(("", 0)), managers.SyncManager().connect):
        with pytest.raises((ValueError, ProcessError), match=r"multiprocessing\.managers\.SyncManager has one"):
            call()


def test_what_its_holder_took_along_goes_on(manager):
    lock, items = manager.Lock(), manager.list()

    def die():
        with lock:
            items.append(os.getpid())
            os.kill(os.getpid(), signal.SIGKILL)

    process = fork.Process(target=die)
    process.start()
    with lock:  # before, or after its end
        pass
    process.join()
    with lock:
        assert items[:] == [process.pid]


class Manager(managers.SyncManager):
    pass


Manager.register("Words", set, exposed=["add", "__len__"])


def test_registered_types_come_from_a_server_that_starts_with_the_first():
    with Manager(ctx=fork) as manager:
        manager.list([1])
        assert manager.address is None
        words, more = map(manager.Words, ["", "ab"])
        words.add("word")
        assert (words.__len__(), more.__len__()) == (1, 2)
        assert isinstance(manager.address, str)
        assert str(manager.Array("u", "abc")) == str(array.array("u", "abc"))
    assert not hasattr(managers.SyncManager, "Words")


class Counter:
    def __init__(self):
        self.count = 0

    def add(self):
        self.count += 1


class CounterProxy(managers.NamespaceProxy):
    _exposed_ = ("__getattribute__", "__setattr__", "__delattr__", "add")

    def add(self):
        return self._callmethod("add")


@pytest.mark.parametrize("base", [managers.BaseManager, managers.SyncManager], ids=lambda base: base.__name__)
def test_the_classes_of_proxies_are_registered_and_derived_from(base):
    class Own(base):
        pass

    words = {"a": 1}
    Own.register("words", lambda: words, managers.DictProxy)
    Own.register("numbers", lambda: [1, 2], proxytype=managers.ListProxy)
    Own.register("Counter", Counter, CounterProxy)
    with Own(ctx=fork) as own:
        own.words().update(b=2)
        counter = own.Counter()
        counter.add()
        counter.count += 1
        assert (own.words().copy(), own.numbers()[:], counter.count) == ({"a": 1, "b": 2}, [1, 2], 2)
        assert isinstance(own.words(), managers.DictProxy)
        assert isinstance(own.words(), multiprocessing.managers.DictProxy)
        assert not isinstance(own.words(), managers.ListProxy)
        assert isinstance(counter, managers.NamespaceProxy)


def test_what_a_manager_makes_is_an_instance_of_the_class_of_that_name(manager):
    made = [manager.Array("i", [1]), manager.dict(), manager.list(), manager.Namespace(), manager.Value("i", 1)]
    classes = [getattr(managers, kind + "Proxy") for kind in ("Array", "Dict", "List", "Namespace", "Value")]
    for thing, own in zip(made, classes):
        assert [each for each in classes if isinstance(thing, each)] == [own]
        assert not isinstance(thing, (CounterProxy, managers.BaseProxy))


def test_it_starts_no_process_and_loads_no_pool():
    run_script(
        """
        import sys
        import pyconc
        assert "pyconc.shared" not in sys.modules
        with pyconc.Manager() as manager:
            manager.list().append(manager.Lock().acquire())
        import multiprocessing
        assert multiprocessing.active_children() == [] and "pyconc.process_pool" not in sys.modules
        """
    )


@pytest.mark.skipif(sys.version_info < (3, 11), reason="has no such argument")
def test_options_go_to_the_server():
    with managers.SyncManager(ctx=fork, shutdown_timeout=30) as manager:
        assert str(manager.Array("u", "a")) == str(array.array("u", "a"))
