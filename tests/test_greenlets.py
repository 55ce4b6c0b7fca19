"""Where gevent or eventlet has made greenlets of the threading module's threads, the standard executors are made."""

import importlib.util
import threading

import pytest
from support import run_script

import pyconc

PATCH = {
    "gevent": "from gevent import monkey; monkey.patch_all()",
    "eventlet": "import warnings; warnings.simplefilter('ignore'); import eventlet; eventlet.monkey_patch()",
}

# A task waits for something that only another greenlet does, so that one who blocks them all hangs.
PROGRAM = """
import sys, threading, time
def check(futures):
    for kind in (futures.ThreadPoolExecutor, futures.ProcessPoolExecutor):
        with kind(2) as pool:
            assert type(pool).__module__.startswith("concurrent.futures"), type(pool)
            assert isinstance(pool, kind)
            assert pool.submit(pow, 2, 3).result(60) == 8
            assert list(pool.map(abs, [-1, -2])) == [1, 2]
    turns, stop = [], threading.Event()
    def other():
        while not stop.is_set():
            turns.append(1)
            time.sleep(0.001)
    ticker = threading.Thread(target=other)
    ticker.start()
    with futures.ThreadPoolExecutor(max_workers=2, thread_name_prefix="mine") as pool:
        event = threading.Event()
        waiting = [pool.submit(event.wait, 60) for _ in range(2)]
        assert not futures.wait(waiting, timeout=0.05).done
        before = len(turns)
        threading.Timer(0.02, event.set).start()
        assert [future.result(60) for future in futures.as_completed(waiting)] == [True, True]
        assert len(turns) > before, "nobody else had a turn"
    stop.set()
    ticker.join()
    print("cooperative")
"""

WAYS = {
    "import, patched first": "{patch}\n" + PROGRAM + "\nimport pyconc\ncheck(pyconc)",
    "import, patched later": "import pyconc\n{patch}\n" + PROGRAM + "\ncheck(pyconc)",
    "install(), patched first": "{patch}\n" + PROGRAM + "\nimport pyconc; pyconc.install()\n"
    "import concurrent.futures\ncheck(concurrent.futures)",
    "install(), patched later": "import pyconc; pyconc.install()\n{patch}\n" + PROGRAM + "\n"
    "import concurrent.futures\ncheck(concurrent.futures)",
}


@pytest.fixture(params=PATCH)
def patch(request):
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    return PATCH[request.param]


@pytest.mark.parametrize("way", WAYS)
def test_executors_are_as_cooperative_as_the_standard_ones(patch, way):
    finished = run_script(WAYS[way].replace("{patch}", patch))
    assert finished.stdout == "cooperative\n", finished


@pytest.mark.parametrize("first", ["patch", "import"])
def test_a_future_of_ones_own_waits_cooperatively(patch, first):
    patch = f"{patch}; import pyconc" if first == "patch" else f"import pyconc; {patch}"
    finished = run_script(f"""
        {patch}
        import threading
        future = pyconc.Future()
        threading.Timer(0.01, future.set_result, ["done"]).start()
        print(future.result(60))
    """)
    assert finished.stdout == "done\n"


def test_subclasses(patch):
    finished = run_script(f"""
        import pyconc
        class Before(pyconc.ThreadPoolExecutor):
            pass
        old = pyconc.ThreadPoolExecutor(1)
        {patch}
        class After(pyconc.ThreadPoolExecutor):
            def twice(self, *args):
                return [self.submit(*args) for _ in range(2)]
        with After(1) as pool:
            print([future.result(60) for future in pool.twice(pow, 2, 3)])
        for late in (lambda: Before(1), lambda: old.submit(int)):
            try:
                late()
            except RuntimeError as error:
                print("monkey-patched" in str(error))
    """)
    assert finished.stdout == "[8, 8]\nTrue\nTrue\n"


# --- Without either ---------------------------------------------------------------------------------------------------


@pytest.fixture
def greenlets(monkeypatch):
    """The threading module as it looks to pyconc when it has been patched; it starts threads all the same."""
    real = threading.get_ident
    monkeypatch.setattr(threading, "get_ident", lambda: real())


@pytest.mark.parametrize("name", ["ThreadPoolExecutor", "ProcessPoolExecutor"])
def test_the_standard_classes_are_made(greenlets, monkeypatch, name):
    cls = getattr(pyconc, name)
    pool = cls(3)
    assert type(pool).__module__.startswith("concurrent.futures")
    assert type(pool).__name__ == name
    assert pool._max_workers == 3
    assert isinstance(pool, cls)
    pool.shutdown()
    with pytest.raises(ValueError, match="max_workers"):
        cls(max_workers=0)
    monkeypatch.undo()
    pool = cls(3)
    assert type(pool) is cls
    pool.shutdown()


def test_wait_and_as_completed_are_the_standard_ones(greenlets):
    with pyconc.ThreadPoolExecutor(1) as pool:
        futures = [pool.submit(abs, number) for number in (-1, -2)]
        assert pyconc.wait(futures) == (set(futures), set())
        assert {future.result() for future in pyconc.as_completed(futures)} == {1, 2}


def test_an_executor_made_before_says_why_it_starts_no_thread(greenlets, monkeypatch):
    monkeypatch.undo()
    with pyconc.ThreadPoolExecutor(1) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(threading, "get_ident", lambda: 1)
            with pytest.raises(RuntimeError, match="monkey-patched after this executor"):
                pool.submit(int)
        assert pool.submit(int).result() == 0
