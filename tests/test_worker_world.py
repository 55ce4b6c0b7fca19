"""What of the program's world its workers have: settings, globals, functions, whatever threads the program has."""

import importlib.util
import os
import pickle
import sys
from pathlib import Path

import pytest
from support import chessboard, run_script

from pyconc._process.main_module import _mentions, has_guard

# A program that configures its world at its top, and defines there what it has workers do.
PROGRAM = """
import decimal, logging, os, sys, threading
import pyconc
decimal.getcontext().prec = 50
sys.setrecursionlimit(20000)
logging.basicConfig(level=logging.INFO)
state = "as imported"
def look():
    logger = logging.getLogger()
    third = str(decimal.Decimal(1) / 3)
    return len(third), sys.getrecursionlimit(), logger.getEffectiveLevel(), len(logger.handlers), state
"""

SEES_ITS_WORLD = (52, 20000, 20, 1)


@pytest.mark.parametrize("when", ["before the first", "before the second"])
def test_workers_of_a_program_with_threads_have_its_locale(when):
    finished = run_script(
        """
import locale, sys, threading
import pyconc
def change():
    locale.setlocale(locale.LC_ALL, "C.UTF-8")
def look(*_):
    return locale.setlocale(locale.LC_ALL)
if __name__ == "__main__":
    locale.setlocale(locale.LC_ALL, "C")
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    if sys.argv[1] == "before the first":
        change()
    with pyconc.ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:
        first = pool.submit(look).result()
        change()
        print(first, pool.submit(look).result())
""",
        when,
    )
    assert finished.stdout == ("C.UTF-8" if when == "before the first" else "C") + " C.UTF-8\n"


@chessboard("threads, when", ["none", "one"], ["before the first", "before the second"])
def test_workers_have_what_the_program_has_set_in_the_interpreter(threads, when):
    # Also behind the guard, which a fresh interpreter does not pass; and what the program sets while it has workers.
    finished = run_script(
        """
import signal, socket, sys, threading
import pyconc
def change():
    sys.setrecursionlimit(4321)
    sys.setswitchinterval(0.25)
    if hasattr(sys, "set_int_max_str_digits"):
        sys.set_int_max_str_digits(0)
    socket.setdefaulttimeout(77)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
def look():
    digits = sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else None
    signals = [signal.getsignal(number).name for number in (signal.SIGPIPE, signal.SIGHUP, signal.SIGTERM)]
    return sys.getrecursionlimit(), sys.getswitchinterval(), digits, socket.getdefaulttimeout(), *signals
if __name__ == "__main__":
    if sys.argv[1] == "one":
        threading.Thread(target=threading.Event().wait, daemon=True).start()
    signal.signal(signal.SIGUSR1, print)
    unchanged = look()
    if sys.argv[2] == "before the first":
        change()
    with pyconc.ProcessPoolExecutor(1, max_tasks_per_child=1) as pool:
        expected = look()
        print(pool.submit(look).result() == expected)
        change()
        print(pool.submit(look).result() == look() != unchanged)
""",
        threads,
        when,
    )
    assert finished.stdout == "True\nTrue\n"


@pytest.mark.parametrize("origin", ["program", "reserve", "nursery"])
def test_commands_have_no_files_of_ours(origin):
    """Those that close nothing, such as os.system()'s, run by tasks or by the program."""
    finished = run_script(
        """
import os, subprocess, sys, threading
import pyconc
def look():
    # The last one is the folder's that is listed.
    return sorted(map(int, subprocess.check_output(["ls", "/proc/self/fd"], close_fds=False).split()))[:-1]
def start_thread():
    threading.Thread(target=threading.Event().wait, daemon=True).start()
if __name__ == "__main__":
    before = look()
    if sys.argv[1] == "nursery":
        start_thread()
    with pyconc.ProcessPoolExecutor(1) as pool:
        if sys.argv[1] == "reserve":
            start_thread()
        print(pool.submit(look).result() == before, look() == before)
""",
        origin,
    )
    assert finished.stdout == "True True\n"


@pytest.mark.skipif(importlib.util.find_spec("numpy") is None, reason="numpy is not installed")
def test_native_threads_of_a_library_are_no_reason_not_to_fork():
    # Threads that Python does not know, as numpy's BLAS keeps them.
    finished = run_script(
        """
import sys
sys.modules["cloudpickle"] = None  # what is in the workers goes there by name
import numpy
"""
        + PROGRAM
        + """
numpy.seterr(all="raise")
def divide():
    try:
        numpy.array([1.0]) / numpy.array([0.0])
    except FloatingPointError:
        return "raises"
if __name__ == "__main__":
    state = "changed by the program"
    with pyconc.ProcessPoolExecutor(2) as pool:
        print(pool.submit(look).result(), pool.submit(divide).result())
""",
        env={"OPENBLAS_NUM_THREADS": "4"},
    )
    assert finished.stdout == f"{(*SEES_ITS_WORLD, 'changed by the program')} raises\n"


SERVER = """
import multiprocessing, os, socket, stat, sys, threading
import pyconc
def listen(family):
    listener = socket.socket(family)
    listener.bind({socket.AF_INET: ("127.0.0.1", 0), socket.AF_UNIX: "socket"}[family])
    listener.listen()
    client = socket.socket(family)
    client.connect(listener.getsockname())
    return listener, client, listener.accept()[0]
def has(*fds):
    return [stat.S_ISSOCK(os.fstat(fd).st_mode) for fd in fds]
"""


@pytest.mark.skipif(sys.version_info < (3, 14), reason="workers of the standard library have them, too")
@pytest.mark.parametrize("family", ["AF_INET", "AF_UNIX"])
@pytest.mark.parametrize("origin", ["program", "zygote", "reserve"])
def test_a_client_meets_the_end_of_a_connection_that_was_accepted_before_workers_were_forked(origin, family):
    run_script(
        SERVER
        + """
listener, client, accepted = listen(getattr(socket, sys.argv[2]))
pool = pyconc.ProcessPoolExecutor(2)
if sys.argv[1] == "reserve":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
os.mkfifo("gate")
def write():
    with open("gate", "w"):
        return has(listener.fileno(), accepted.fileno(), client.fileno())
waits = pool.submit(write) if sys.argv[1] == "zygote" else None  # until another worker reads
assert pool.submit(has, listener.fileno(), accepted.fileno(), client.fileno()).result() == [False, False, True]
if waits is not None:
    with open("gate"):
        assert waits.result() == [False, False, True]
where = listener.getsockname()
listener.close()
accepted.close()
assert client.recv(1) == b""
assert socket.socket(listener.family).connect_ex(where) != 0
pool.shutdown()
""",
        origin,
        family,
    )


@pytest.mark.parametrize("how", ["a context that forks", "arguments of the initializer"])
def test_what_a_server_listens_on_can_be_handed_to_workers(how):
    run_script(
        SERVER
        + """
listener, client, accepted = listen(socket.AF_INET)
if "context" in sys.argv[1]:
    pool = pyconc.ProcessPoolExecutor(1, multiprocessing.get_context("fork"))
else:
    pool = pyconc.ProcessPoolExecutor(1, initializer=id, initargs=(listener,))
assert pool.submit(has, listener.fileno(), accepted.fileno()).result() == [True, True]
pool.shutdown()
""",
        how,
    )


@pytest.mark.skipif(sys.version_info >= (3, 14), reason="nothing can be inherited without a context that forks")
def test_a_worker_that_a_thread_has_forked_calls_its_own_the_main_thread():
    # A lock among the initializer's arguments can only be inherited: workers are forked, though beside threads.
    finished = run_script("""
import threading
import pyconc
def see(*ignored):
    print(threading.current_thread().name, threading.current_thread() is threading.main_thread())
if __name__ == "__main__":
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    with pyconc.ProcessPoolExecutor(1, initializer=see, initargs=(threading.Lock(),)) as pool:
        pool.submit(see).result()
""")
    assert finished.stdout == "MainThread True\n" * 2


@pytest.mark.parametrize("kind", ["_thread", "threading", "ended", "an executor that was shut down", "none"])
def test_threads_that_run_the_program_are(kind):
    finished = run_script(
        """
        import _thread, sys, threading
        import pyconc
        from pyconc._process.launcher import is_single_threaded
        kind = sys.argv[1]
        if kind == "_thread":
            begun, end = _thread.allocate_lock(), _thread.allocate_lock()
            begun.acquire()
            end.acquire()
            _thread.start_new_thread(lambda: (begun.release(), end.acquire()), ())
            begun.acquire()
        elif kind == "threading":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
        elif kind == "ended":
            thread = threading.Thread(target=int)
            thread.start()
            thread.join()
        elif kind != "none":
            with pyconc.ThreadPoolExecutor(2) as threads, pyconc.ProcessPoolExecutor(1) as processes:
                threads.submit(int).result(), processes.submit(int).result()
        idle = pyconc.ProcessPoolExecutor(1)
        idle.submit(int).result()  # its threads hold nothing
        print(is_single_threaded())
        """,
        kind,
    )
    assert finished.stdout == f"{kind not in ('_thread', 'threading')}\n"


THREAD = "threading.Thread(target=threading.Event().wait, daemon=True).start()"


def test_a_guarded_program_with_threads_is_prepared_in_its_workers():
    finished = run_script(
        'import sys\nsys.modules["cloudpickle"] = None\n'  # by name
        + PROGRAM
        + f"""
class Point:
    def __init__(self, x):
        self.x = x
print("the top runs", __name__)
if __name__ == "__main__":
    state = "changed by the program"
    {THREAD}
    with pyconc.ProcessPoolExecutor(2, initializer=decimal.getcontext) as pool:
        print(pool.submit(look).result(), type(pool.submit(Point, 3).result()) is Point)
"""
    )
    assert finished.stderr == ""
    lines = finished.stdout.splitlines()
    assert sorted(lines[:2]) == ["the top runs __main__", "the top runs __mp_main__"]
    assert lines[2:] == [f"{(*SEES_ITS_WORLD, 'as imported')} True"]


def test_what_is_defined_behind_the_guard_travels_by_value():
    finished = run_script(
        f"""
        import threading, pyconc
        factor = 3
        def answer():
            return "the old one"
        if __name__ == "__main__":
            {THREAD}
            def answer():
                return "the new one"
            def multiply(x):
                return factor * x
            class Point:
                def __init__(self, x):
                    self.x = x
            with pyconc.ProcessPoolExecutor(1) as pool:
                print(pool.submit(answer).result(), pool.submit(multiply, 2).result())
                large = pool.submit(Point, b"x" * (3 << 20)).result()
                assert len(large.x) == pool.submit(lambda point: len(point.x), large).result() == 3 << 20
                print(type(pool.submit(Point, 1).result()) is Point, list(pool.map(lambda x: x + 1, range(2))))
        """
    )
    assert finished.stdout == "the new one 6\nTrue [1, 2]\n"


SHARED = """
import enum, threading
import pyconc
class Color(enum.Enum):
    RED = 1
class Point:
    pass
class Slots:
    __slots__ = "a", "__b"
    def __init__(self, a):
        self.a, self.__b = a, -a
    def get(self):
        return self.a, self.__b, hasattr(self, "__dict__")
def begin():
    global origin
    origin = Point()
def knows(point, color):
    return type(point) is type(origin) is Point, color is Color.RED
"""


@pytest.mark.parametrize("threads", ["", THREAD], ids=["one thread", "threads"])
def test_what_workers_have_goes_by_name_beside_what_goes_by_value(threads):
    """Classes and members of enumerations stay the same things for lambdas, and whatever is defined later on."""
    finished = run_script(
        SHARED
        + f"""
if __name__ == "__main__":
    {threads}
    with pyconc.ProcessPoolExecutor(1, initializer=begin) as pool:
        pool.submit(abs, 1).result()
        asks = [knows, lambda point, color: (type(point) is type(origin) is Point, color is Color.RED)]
        for ask in asks:  # a new name of something old, too
            print(*pool.submit(ask, Point(), Color.RED).result(), *pool.map(ask, [Point()], [Color.RED]))
        print(pool.submit(lambda: [Color.RED, lambda: 0]).result()[0] is Color.RED)
        class Later(Point):
            pass
        print(*pool.submit(lambda point: (isinstance(point, Point), isinstance(Later(), Point)), Later()).result())
        print(*pool.submit(knows, Point(), Color.RED).result())
"""
    )
    assert finished.stdout == "True True (True, True)\n" * 2 + "True\nTrue True\nTrue True\n"


@pytest.mark.parametrize("threads", ["", THREAD], ids=["one thread", "threads"])
def test_objects_with_slots_travel_by_value(threads):
    finished = run_script(
        SHARED
        + f"""
if True:
    {threads}
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(abs, 1).result()
        class More(Slots):
            __slots__ = "c", "__weakref__"
        for kind in Slots, More:
            print(*pool.submit(kind.get, kind(1)).result(), *pool.submit(lambda x: x, kind(2)).result().get())
"""
    )
    assert finished.stdout == "1 -1 False 2 -2 False\n" * 2


@pytest.mark.parametrize(
    ("stream", "mentions"),
    [
        (pickle.dumps(Path), True),
        (pickle.dumps(Path.joinpath), True),
        (pickle.dumps(pickle.dumps(Path, 2)), True),
        (pickle.dumps("a Path"), False),
        (pickle.dumps("PathLike"), False),
    ],
)
def test_which_pickles_mention_a_name(stream, mentions):
    assert _mentions(stream, "Path") == mentions


def test_a_program_that_has_left_the_folder_that_its_modules_are_in():
    finished = run_script(
        f"""
        import os, sys, threading
        os.mkdir("lib")
        with open("lib/far.py", "w") as file:
            file.write("def square(x): return x * x")
        sys.path.insert(0, "lib")
        import far, pyconc
        {THREAD}
        os.chdir("/")
        with pyconc.ProcessPoolExecutor(1) as pool:
            print(pool.submit(far.square, 3).result())
        """
    )
    assert finished.stdout == "9\n"


@pytest.mark.parametrize("guard", ["if __name__ == '__main__':", "if True:"])
def test_a_program_with_threads_whose_folder_was_removed_has_workers(guard, tmp_path):
    finished = run_script(
        f"""
import os, sys, threading
import pyconc
def look():
    try:
        return os.getcwd()
    except FileNotFoundError:
        return "removed"
{guard}
    os.mkdir({str(tmp_path / "gone")!r})
    os.chdir({str(tmp_path / "gone")!r})
    os.rmdir({str(tmp_path / "gone")!r})
    threading.Thread(target=threading.Event().wait, daemon=True).start()
    with pyconc.ProcessPoolExecutor(2) as pool:
        print(pool.submit(look).result())
        os.chdir({str(tmp_path)!r})
    with pyconc.ProcessPoolExecutor(2) as pool:
        print(pool.submit(look).result() == os.getcwd())
"""
    )
    assert (finished.stdout, finished.stderr) == ("removed\nTrue\n", "")


@pytest.mark.parametrize("world", ["one thread", "threads"])
def test_a_package_that_is_run_imports_its_modules_in_tasks(world, tmp_path):
    package = tmp_path / "package"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "far.py").write_text("def square(x): return x * x")
    (package / "__main__.py").write_text(
        f"""
import sys, threading, pyconc
class Point:
    pass
def square(x):
    from .far import square
    return square(x), Point()
if __name__ == "__main__":
    if sys.argv[-1] == "threads":
        {THREAD}
    with pyconc.ProcessPoolExecutor(1) as pool:
        result, point = pool.submit(square, 3).result()
        print(result, type(point) is Point)
"""
    )
    path = os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])])
    assert run_script("", world, flags=("-m", "package"), env={"PYTHONPATH": path}).stdout == "9 True\n"


def test_options_of_the_interpreter_hold_in_a_fresh_one():
    finished = run_script(
        f"""
        import sys, threading, pyconc
        {THREAD}
        with pyconc.ProcessPoolExecutor(1) as pool:
            print(pool.submit(sys.get_int_max_str_digits).result(), pool.submit(lambda: sys._xoptions["mine"]).result())
        """,
        flags=("-X", "int_max_str_digits=2000", "-X", "mine"),
    )
    assert finished.stdout == "2000 True\n"


def test_a_main_module_without_a_spec():
    """Debuggers make one."""
    finished = run_script(
        f"""
        import threading, pyconc
        del __spec__
        {THREAD}
        with pyconc.ProcessPoolExecutor(1) as pool:
            print(pool.submit(lambda x: x * x, 3).result())
        """
    )
    assert finished.stdout == "9\n"


@pytest.mark.parametrize("end", ["raise LookupError('not here')", "sys.exit(3)"])
def test_a_guarded_program_that_cannot_run_twice_travels_by_value(end):
    finished = run_script(
        f"""
        import sys, threading, pyconc
        def square(x):
            return x * x
        if __name__ != "__main__":
            {end}
        if __name__ == "__main__":
            {THREAD}
            with pyconc.ProcessPoolExecutor(1) as pool:
                print(pool.submit(square, 3).result())
        """
    )
    assert finished.stdout == "9\n"
    assert "could not run the program's __main__" in finished.stderr


def test_a_pool_outside_the_guard_says_what_is_wrong():
    finished = run_script(
        f"""
        import threading, pyconc
        pool = pyconc.ProcessPoolExecutor(1)  # begins nothing in a worker
        {THREAD}
        print(pool.submit(abs, -1).result(), flush=True)
        pool.shutdown()
        if __name__ == "__main__":
            print("done")
        """
    )
    assert finished.stdout == "1\ndone\n"


def test_pools_of_a_program_with_threads_share_one_fresh_interpreter():
    finished = run_script(
        f"""
        import os, threading, pyconc
        {THREAD}
        from pyconc._process.nursery import the_nursery
        pids = set()
        for _ in range(3):
            with pyconc.ProcessPoolExecutor(2) as pool:
                assert pool.submit(abs, -1).result() == 1
            pids.add(the_nursery.pid)
        with pyconc.ProcessPoolExecutor(1) as one, pyconc.ProcessPoolExecutor(1) as other:
            assert one.submit(os.getpid).result() != other.submit(os.getpid).result()
        pids.add(the_nursery.pid)
        print(len(pids))
        """
    )
    assert finished.stdout == "1\n"


def test_what_a_program_with_threads_has_is_tidied_up_at_its_exit():
    # While the interpreter still has its modules: a destructor may need them.
    finished = run_script(
        """
import os, threading
import pyconc
class Resource:
    def __del__(self):
        os.write(1, b"released")
resource = Resource()
if __name__ == "__main__":
    end = threading.Event()
    thread = threading.Thread(target=end.wait)
    thread.start()
    with pyconc.ProcessPoolExecutor(1) as pool:
        pool.submit(int).result()
    end.set()
    thread.join()
"""
    )
    assert finished.stdout == "released"


@pytest.mark.parametrize(
    ("source", "guarded"),
    [
        ("if __name__ == '__main__':\n    pass", True),
        ('if "__main__" == __name__ and True: pass', True),
        ("'''\nif __name__ == '__main__':\n'''", False),
        ("# if __name__ == '__main__':", False),
        ("def f():\n    if __name__ == '__main__': pass", False),
        ("name = '__main__'", False),
        ("", False),
    ],
)
def test_what_a_guard_is(source, guarded):
    assert has_guard(source) is guarded


def test_a_workers_standard_files_are_those_that_the_program_has_by_then(tmp_path):
    # A fresh interpreter has been there since before: pytest's capfd under xdist, and daemons, redirect files so.
    said = tmp_path / "said"
    finished = run_script(
        """
        import os, sys, threading
        import pyconc
        def say(word):
            print(word, flush=True)
            return os.system(f"echo {word} of a command")
        if __name__ == "__main__":
            threading.Thread(target=threading.Event().wait, daemon=True).start()
            with pyconc.ProcessPoolExecutor(1) as pool:
                pool.submit(say, "first").result()
            os.dup2(os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY), 1)
            os.close(0)  # so that files of ours get its number
            with pyconc.ProcessPoolExecutor(1) as pool:
                pool.submit(say, "second").result()
        """,
        said,
    )
    assert finished.stdout == "first\nfirst of a command\n"
    assert said.read_text() == "second\nsecond of a command\n"


@pytest.mark.parametrize("method", ["spawn", pytest.param("forkserver", marks=pytest.mark.slow)])
def test_the_start_method_that_a_program_has_set_is_honoured(method):
    finished = run_script(
        f"""
        import multiprocessing, pyconc
        state = "as imported"
        def look():
            return state, multiprocessing.get_start_method()
        if __name__ == "__main__":
            multiprocessing.set_start_method({method!r})
            default = multiprocessing.get_all_start_methods()[0] if sys.version_info >= (3, 14) else "fork"
            state = "changed by the program"
            with pyconc.ProcessPoolExecutor(1) as pool:
                # The platform's default leaves the way to pyconc.
                assert pool.submit(look).result() == (state if default == {method!r} else "as imported", {method!r})
        """.replace("import multiprocessing, pyconc", "import multiprocessing, sys, pyconc")
    )
    assert finished.stderr == ""


def test_a_program_that_the_command_runs_is_prepared_with_its_executors(tmp_path):
    script = tmp_path / "program.py"
    script.write_text(
        f"""
import concurrent.futures, threading, pyconc
state = "as imported"
def look():
    return state, concurrent.futures.ProcessPoolExecutor is pyconc.ProcessPoolExecutor
class Point:
    pass
if __name__ == "__main__":
    {THREAD}
    state = "changed"
    with concurrent.futures.ProcessPoolExecutor(1) as pool:
        print(pool.submit(look).result(), type(pool.submit(Point).result()) is Point)
"""
    )
    finished = run_script(
        "import runpy, sys; sys.argv[1:1] = ['run']; runpy.run_module('pyconc', run_name='__main__', alter_sys=True)",
        script,
    )
    assert finished.stdout == "('as imported', True) True\n"


@chessboard("world, when", ["one thread", "threads"], ["before", "after"])
def test_a_warning_that_cannot_be_pickled_costs_only_its_filter(world, when):
    finished = run_script(
        """
        import sys, threading, warnings, pyconc
        def filter_warnings():
            class Local(UserWarning):
                pass
            warnings.simplefilter("error", FutureWarning)
            warnings.simplefilter("error", Local)
        def warn():
            try:
                warnings.warn("now an error", FutureWarning)
            except FutureWarning:
                return "raised"
        if __name__ == "__main__":
            if sys.argv[1] == "threads":
                threading.Thread(target=threading.Event().wait, daemon=True).start()
            if sys.argv[2] == "before":
                filter_warnings()
            with pyconc.ProcessPoolExecutor(2) as pool:
                if sys.argv[2] == "after":
                    filter_warnings()
                print([pool.submit(warn).result() for _ in range(3)])
        """,
        world,
        when,
    )
    assert finished.stdout == "['raised', 'raised', 'raised']\n"
    assert finished.stderr == ""


def test_sigterm_to_the_group_calls_the_handler_of_the_program_alone():
    finished = run_script(
        """
        import os, signal, pyconc
        def handle(*_):
            print("handled by", os.getpid(), flush=True)
            raise SystemExit(3)
        if __name__ == "__main__":
            signal.signal(signal.SIGTERM, handle)
            pool = pyconc.ProcessPoolExecutor(2)
            futures = [pool.submit(signal.pause) for _ in range(2)]
            while not all(future.running() for future in futures):
                pass
            print(os.getpid(), flush=True)
            os.killpg(0, signal.SIGTERM)
        """,
        check=False,
    )
    first, *rest = finished.stdout.splitlines()
    assert rest == [f"handled by {first}"]
    assert finished.returncode == 3
    assert finished.stderr == ""
