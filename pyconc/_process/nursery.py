"""The nursery: a fresh interpreter, of which the zygotes of a program that has threads are clones.

There is one, of the whole program, as there is one forkserver; it starts when it is first needed.  To start it takes as
long as an interpreter takes and the imports of the program's script; every further zygote is a fork of it.

    parent                                    nursery                             zygote
      |--- how to prepare ------------------->|
      |<-- ("ready", fingerprints, error) ----|
      |--- (count, standard files), files --->|--- fork ------------------------->|
      |<-- (pid or None, error), its end -----|                                   |
      |--- rights, limits, pickled initializer ---------------------------------->| see zygote.py
      |                                       |<-- its end is seen: reaped -------|

It ends when its connection does, or its parent.  It ignores Ctrl-C.

The reserve is another one, a fork of the program, see there.  It sleeps as such zygotes do, see zygote.py.
"""

import contextlib
import errno
import fcntl
import gc
import os
import pickle
import select
import signal
import socket
import sys
import threading
import types
import weakref
from concurrent.futures import _base
from multiprocessing import connection, context, process, util

from pyconc import _core, _names, patching
from pyconc._process import kernel, main_module, pickling, process_state, signals, zygote

__all__ = ["CannotFork", "CannotPickle", "the_nursery", "the_reserve"]

# So many file descriptors go in a message; the kernel takes 253.
_FDS_MAX = 200


class CannotPickle(Exception):
    """The initializer or its arguments cannot be pickled; the cause says why."""


class CannotFork(OSError):
    """The nursery goes on, but could not make that zygote."""


class Nursery:
    """The parent's end.  `_lock` guards it all: one conversation at a time."""

    def __init__(self):
        self._lock = threading.Lock()
        self._connection = None
        self.pid = None
        self._key = None  # what it was made for
        self.state = None  # the program's as it was started
        self.by_value = main_module.always
        self._ended = []  # pids that nobody has waited for yet

    may_serve = zygote.Zygote.may_serve

    def is_ready(self):
        """Whether it runs, and its clones may have the program's rights."""
        return self._connection is not None and self.may_serve(process_state.current_rights())

    def clone(self, fds, setup, limits):
        """Return a zygote.  Raises OSError or CannotPickle; the arguments are those of worker_main.main()."""
        with signals.DeferSignals(), self._lock:
            return self._converse(self._clone, lambda: _pack(setup, self.by_value), fds, limits)

    def must_go_by_value(self, value, stream):
        """Whether something that mentions `__main__` must travel by value to its clones.  Starts it if need be."""
        with signals.DeferSignals(), self._lock:
            return self._converse(lambda: self.by_value(value, stream))

    def _converse(self, function, *args):
        for attempt in range(2):
            try:
                self._start()
                return function(*args)
            except EOFError:
                self._stop()  # It was killed: once more.
                if attempt:
                    from multiprocessing import spawn

                    executable = os.fsdecode(spawn.get_executable())
                    raise OSError(f"the interpreter that makes the workers, {executable}, does not run") from None
            except (CannotPickle, CannotFork):
                raise
            except BaseException:
                self._stop()  # Nobody knows what it would answer next.
                raise

    def stop(self):
        """End it.  Zygotes that were made go on; the next one takes a new nursery."""
        with signals.DeferSignals(), self._lock:
            self._stop()
            self.reap()

    def forget(self):
        """In the child of a fork: it is the parent's."""
        self._lock = threading.Lock()
        self._key = self.pid = None
        self._ended.clear()
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _stop(self, kills=True):
        self._key = None
        pid, self.pid = self.pid, None
        is_killed = kills and pid is not None and zygote.kill(pid)  # it has nothing to tidy up
        if pid is not None:
            self._ended.append(pid)
        if self._connection is not None:
            if not is_killed:
                kernel.hang_up(self._connection)
            self._connection.close()
            self._connection = None

    def reap(self):
        """Wait for what was ended."""
        while self._ended:
            with contextlib.suppress(OSError, IndexError):
                os.waitpid(self._ended.pop(), 0)

    def _start(self):
        from multiprocessing import spawn

        main = sys.modules.get("__main__")
        key = (_weakly(main), getattr(main, "__file__", None))
        # With fewer rights than it had, the program may not find the interpreter any more.
        if self._key == key and self.may_serve(process_state.current_rights()) and not self._connection.poll(0):
            return  # it says nothing of its own: that would be its end
        self._stop()
        self.reap()
        self._connection, theirs = kernel.open_connection()
        _require_passing(self._connection, theirs)
        self.state = process_state.ProcessState()
        with theirs:
            # With this path, and not whatever the new interpreter would put at its front, so that it finds what we are.
            # Whoever presses Ctrl-C means the program, also while that interpreter is too young to ignore it.
            with signals.BlockInterrupts() as mask:
                start = f"from pyconc._process import nursery; nursery.main({theirs.fileno()}, {mask})"
                code = f"import sys; sys.path[:] = {_absolute(sys.path)!r}; {start}"
                # Where the folder was removed, Python 3.13.0 imports nothing if the path has ever had it.
                safe = ["-P"] if self.state.cwd is None and sys.version_info >= (3, 11) else []
                command = [spawn.get_executable(), *_interpreter_flags(), *safe, "-c", code]
                with kernel.Explained("the interpreter that makes the workers is started by pipe2() and vfork()"):
                    self.pid = util.spawnv_passfds(
                        os.fsencode(command[0]), [os.fsencode(word) for word in command], [theirs.fileno()]
                    )
        # While that interpreter begins.
        if main is not None:
            vars(main).setdefault("__spec__", None)  # debuggers make one without
        preparation = _preparation_data()
        preparation["authkey"] = bytes(
            preparation["authkey"]
        )  # the class refuses to be pickled, as it cannot know for whom
        preparation["sys_path"] = _absolute(preparation["sys_path"])
        if main_module.is_guarded():
            sys.modules["__mp_main__"] = main  # so what comes from there calls it
        else:
            for name in ("init_main_from_name", "init_main_from_path"):
                preparation.pop(name, None)
        state = process_state.pack({name: getattr(self.state, name) for name in process_state.OF_INTERPRETER})
        self._send((os.getpid(), preparation, patching._installed, state))
        _, prints, error = self._receive()
        if error is not None:
            _base.LOGGER.warning(
                "worker processes could not run the program's __main__ up to its guard, so its settings do not hold "
                "there, and what it defines travels by value:%s",
                error,
            )
        self.by_value = main_module.always if prints is None else main_module.MainOfInterpreter(prints)
        self._key = key

    def _clone(self, pack, fds, limits):
        try:
            payload, passed = pack()
        except Exception as error:
            raise CannotPickle from error
        ours, theirs = kernel.open_connection()
        with theirs:
            standard = _open_standard_files()
            sent = [*standard, theirs.fileno(), *fds, *passed]
            self._send((len(sent), standard))
            try:
                _send_fds(self._connection, sent)
            except OSError as error:
                if kernel.is_refusal(error):
                    raise
                raise EOFError from None
            pid, error = self._receive()
        if pid is None:
            ours.close()
            raise CannotFork(*error)
        end = _receive_fds(self._connection, 1)[0]
        made = ZygoteOfNursery(pid, end, ours, self.state, self.by_value)
        try:
            ours.send((os.getpid(), self.state.rights, len(fds), limits))
            ours.send_bytes(payload)
        except OSError:
            pass  # It has ended, which whoever uses it will see.
        return made

    def _send(self, message):
        try:
            self._connection.send_bytes(pickle.dumps(message))  # frames of send() cannot be collected
        except OSError:
            raise EOFError from None

    def _receive(self):
        signals.call_interruptibly(connection.wait, [self._connection])
        try:
            return self._connection.recv()
        except OSError:
            raise EOFError from None


def _weakly(main):
    """Return what equals another reference to the same `__main__`, and lets the interpreter tidy that up at exit."""
    try:
        return weakref.ref(main)
    except TypeError:
        return main  # None, or an object that has taken the module's place


def _interpreter_flags():
    """Return the options that this interpreter was given; before Python 3.15, multiprocessing leaves out some -X."""
    flags = util._args_from_interpreter_flags()
    for name, value in sys._xoptions.items():
        option = name if value is True else f"{name}={value}"
        if name != "dev" and option not in flags:
            flags += ["-X", option]
    return flags


def _preparation_data():
    """Return what multiprocessing prepares a fresh interpreter with; no "dir" if the current folder was removed."""
    from multiprocessing import spawn

    make = spawn.get_preparation_data
    try:
        return make("pyconc-nursery")
    except FileNotFoundError:
        # That folder is the only one which the system is asked for, and the interpreter begins there anyway.
        without_folder = types.SimpleNamespace(**{**vars(os), "getcwd": lambda: None})
        data = types.FunctionType(make.__code__, {**vars(spawn), "os": without_folder})("pyconc-nursery")
        del data["dir"]
        return data


def _absolute(paths):
    """Return a search path that finds what it finds here, although the program has left the folder it began in."""
    return [getattr(sys.path_importer_cache.get(path), "path", path) for path in paths]


class ZygoteOfNursery(zygote.Zygote):
    """A zygote that is the nursery's child."""

    def __init__(self, pid, end, conn, state, by_value):
        super().__init__(pid, conn, state, by_value)
        self._end = end
        self._closes = util.Finalize(self, os.close, (end,))

    def _kill(self):
        return kernel.send_signal(self._end, self.pid, signal.SIGKILL)

    def join(self):
        if self._closes.still_active():
            connection.wait([self._end])
            self._closes()

    def forget(self):
        super().forget()
        self._closes()


class Reserve(Nursery):
    """A nursery that is a fork of the program, from when it last had one thread as it made an executor.

    It serves the executors that there were then and to which nothing had been submitted.  That is all an executor costs
    before: the program may have other threads by the time it submits.  An executor with a zygote of another origin
    leaves, and with the last one it ends.
    """

    def __init__(self):
        super().__init__()
        self._executors = {}  # name: weak reference, or None once it has a zygote from here
        self._retired = []  # pids of former ones that wait for the end of their zygotes
        self._has_zygotes = False

    def renew(self, name, executor):
        """Fork the program as it is now, also for this executor.  Raises OSError: then there is none."""
        self._executors[name] = weakref.ref(executor, lambda _: (self.leave(name), self.reap()))
        with signals.DeferSignals(), self._lock:
            if self._has_zygotes and self.pid is not None:
                # It ends after them, so that it reaps them.
                self._retired.append(self.pid)
                self.pid = None
            self._executors = {name: each for name, each in list(self._executors.items()) if each is not None}
            self._stop()
            self._fork()
            self.reap()

    def _fork(self):
        ours, theirs = kernel.open_connection()
        util._flush_std_streams()
        parent = os.getpid()
        # Before the fork, see ZygoteFork.
        self.state, self.by_value = process_state.ProcessState(), main_module.MainOfFork()
        executors = [each() for each in list(self._executors.values()) if each is not None]
        leaves = zygote.leaves_servers(any(each is not None and each._plan.setup[1] for each in executors))
        pid = zygote.fork(theirs.fileno(), ours.fileno(), "pyconc-reserve", leaves_servers=leaves)
        if pid == 0:
            try:
                ours.close()
                signals.reset_in_child()
                gc.freeze()  # no collection here ends what the program has
                _serve(theirs, parent)
            finally:
                os._exit(0)
        theirs.close()
        self._connection, self.pid, self._has_zygotes = ours, pid, False

    def has(self, name):
        """Whether it was made for that executor."""
        return name in self._executors

    def serves(self, name):
        return self.has(name) and self.is_ready()

    def clone(self, name, fds, setup, limits):
        """Return a zygote for an executor that it serves.  Raises OSError."""
        with signals.DeferSignals(), self._lock:
            self._has_zygotes = True
            self._executors[name] = None
            return self._converse(self._clone, lambda: (_pack_by_name(name), []), fds, limits)

    def setup_of(self, name):
        return self._executors[name]()._plan.setup

    def leave(self, name):
        """Stop serving that executor.  When there is no other it ends; call reap() afterwards."""
        self._executors.pop(name, None)
        if self._lock.acquire(blocking=False):  # else it is needed
            try:
                if not self._executors and self.pid is not None:
                    # It has zygotes to reap, which have ended.
                    self._stop(kills=not self._has_zygotes or zygote.is_stopped(self.pid))
            finally:
                self._lock.release()

    def reap(self):
        super().reap()
        for pid in list(self._retired):
            try:
                ended = kernel.reap(pid, os.WNOHANG)[0]
            except ChildProcessError:
                ended = pid  # The program has waited for it.
            if ended:
                with contextlib.suppress(ValueError):
                    self._retired.remove(pid)

    def forget(self):
        super().forget()
        self._retired.clear()

    def _start(self):
        if self._connection is None:
            raise OSError("the program's fork has ended")


the_nursery = Nursery()
the_reserve = Reserve()
os.register_at_fork(after_in_child=lambda: (the_nursery.forget(), the_reserve.forget()))


# ---- the initializer, packed ----


class _Passing:
    """Stands for the process that is being started while the initializer's arguments are pickled: they ask for that."""

    def __init__(self):
        self.fds = []

    def duplicate_for_child(self, fd):
        self.fds.append(fd)
        return len(self.fds) - 1

    @staticmethod
    def DupFd(index):
        return _PassedFd(index)


_passed = []  # in a zygote: the file descriptors that came with the initializer


class _PassedFd:
    def __init__(self, index):
        self._index = index

    def detach(self):
        return _passed[self._index]


class _SetupOf:
    """Is unpickled as what an executor has its workers begin with, in a fork of the program."""

    def __init__(self, name):
        self._name = name

    def __reduce__(self):
        return the_reserve_setup_of, (self._name,)


def _pack_by_name(name):
    return pickle.dumps((pickle.dumps(_SetupOf(name)), []))


def the_reserve_setup_of(name):
    return the_reserve.setup_of(name)


def _pack(setup, by_value):
    """Return (pickle, file descriptors) of an initializer and its arguments."""
    passing = _Passing()
    context.set_spawning_popen(passing)
    try:
        try:
            packed = pickling.dumps_registered(setup)
        except Exception as error:
            passing.fds.clear()
            packed = pickling.dumps(setup, error, by_value)
        else:
            if b"__main__" in packed[0] and by_value(setup, packed[0]):
                passing.fds.clear()
                packed = pickling.dumps_by_value(setup, by_value=by_value)
        return pickle.dumps(packed, pickling.PROTOCOL), passing.fds
    finally:
        context.set_spawning_popen(None)


# ---- file descriptors, in chunks beside a byte each ----


_PASSING = "workers of a program with threads get its open files by sendmsg(), recvmsg() and dup2()"


def _require_passing(sender, receiver):
    """Raise OSError, which names them, if the system refuses calls of which some are made in another process only.

    sender, receiver: the two ends of a connection on which nothing was sent.
    """
    _send_fds(sender, [sender.fileno()])
    (fd,) = _receive_fds(receiver, 1)
    with kernel.Explained(_PASSING):
        os.dup2(fd, fd)
    os.close(fd)


def _send_fds(conn, fds):
    with kernel.Explained(_PASSING), _socket_of(conn) as sock:
        for start in range(0, len(fds), _FDS_MAX):
            socket.send_fds(sock, [b"f"], fds[start : start + _FDS_MAX])


def _receive_fds(conn, count):
    fds = []
    with kernel.Explained(_PASSING), _socket_of(conn) as sock:
        while len(fds) < count:
            data, received, _, _ = socket.recv_fds(sock, 1, _FDS_MAX)
            for fd in received:
                os.set_inheritable(fd, False)  # commands that tasks run, or the program, are not to have it
            if not data:
                raise EOFError
            if not received:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))  # There was no room for them.
            fds.extend(received)
    return fds


@contextlib.contextmanager
def _socket_of(conn):
    sock = socket.socket(fileno=conn.fileno())
    try:
        yield sock
    finally:
        sock.detach()


# ---- the nursery's own life ----


def main(fd, mask):
    """Prepare, and fork zygotes on request, until the connection or the parent ends.

    Begins with SIGINT blocked; `mask` is what the program blocks.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    _core.name_thread("pyconc-nursery")
    conn = connection.Connection(fd)
    try:
        parent, preparation, is_installed, state = conn.recv()
    except (EOFError, ConnectionError):
        os._exit(0)  # the program has ended
    if is_installed:
        patching.install()
    prepared = _prepare(preparation)
    try:
        conn.send(("ready", *prepared))
    except ConnectionError:
        os._exit(0)  # the program has ended
    process_state.adopt(state)
    # Nothing of this interpreter is worth tidying up, and its threads, if the script made some, may not end.
    try:
        _serve(conn, parent)
    finally:
        os._exit(0)


def _prepare(preparation):
    """Run the script up to its guard, if it may be; return its fingerprints and what went wrong, or None for each."""
    from multiprocessing import spawn

    script = {name: preparation.pop(name) for name in list(preparation) if name.startswith("init_main")}
    spawn.prepare(preparation)
    if not script:
        return None, None
    before = sys.modules["__main__"]
    process.current_process()._inheriting = True
    try:
        spawn.prepare(script)
    except BaseException as error:
        sys.modules["__main__"] = before
        sys.modules.pop("__mp_main__", None)
        return None, pickling.quote(error)
    finally:
        del process.current_process()._inheriting
    if sys.modules["__main__"] is before:
        return None, None  # of a package's __main__.py, for instance, multiprocessing makes nothing
    return main_module.fingerprints(), None


def _serve(conn, parent):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent_fd = kernel.open_pidfd(parent)
    poll = select.poll()
    poll.register(conn.fileno(), select.POLLIN)
    if parent_fd is not None:  # else the end of the connection tells
        poll.register(parent_fd, select.POLLIN)
    children = kernel.Children(poll, with_pidfds=parent_fd is not None)
    while True:
        for fd, _ in poll.poll():
            if fd == parent_fd:
                return
            if children.reap(fd) is not None:
                continue
            try:
                count, standard = conn.recv()
                fds = _receive_fds(conn, count)
            except (EOFError, OSError):
                children.join()
                return
            util._flush_std_streams()
            try:
                pid = zygote.fork()
                if pid:
                    children.add(pid)
            except Exception as error:
                conn.send((None, zygote.reason_of(error)))
            else:
                if pid == 0:
                    children.leave()
                    if parent_fd is not None:
                        os.close(parent_fd)
                    conn.close()
                    _be_zygote(*_take_standard_files(standard, fds))
                end = children.open_end(pid)
                conn.send((pid, None))
                _send_fds(conn, [end])
                os.close(end)
            for each in fds:
                os.close(each)


def _open_standard_files():
    """Return the numbers of the standard files that the program has: it may have closed some."""
    return [fd for fd in range(3) if _is_open(fd)]


def _is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def _take_standard_files(standard, fds):
    """In a zygote: make what came first the standard files, as the program may have others than when the nursery began.

    Return the rest, above the standard files.
    """
    fds = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3) if fd < 3 else fd for fd in fds]
    for number, fd in zip(standard, fds, strict=False):
        os.dup2(fd, number)
        os.close(fd)
    return fds[len(standard) :]


def _be_zygote(fd, *fds):
    try:
        conn = connection.Connection(fd)
        parent, rights, count, limits = conn.recv()
        payload = conn.recv_bytes()
        _passed[:] = fds[count:]
        main_module.begin_worker()
        _core.name_thread(_names.short_name(limits.name, "-zygote"))
        try:
            stream, buffers = pickle.loads(payload)
            setup = pickle.loads(stream, buffers=buffers)
        except BaseException as error:
            setup = _raise, (RuntimeError(f"the initializer could not be unpickled: {error!r}"),), None
        zygote.serve(conn, parent, rights, (list(fds[:count]), setup, limits))
    except (EOFError, OSError):
        pass  # the parent has gone, or wants nothing further
    finally:
        os._exit(0)


def _raise(error):
    raise error
