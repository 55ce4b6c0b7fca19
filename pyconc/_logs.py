"""forward_logs=True: what code in workers logs reaches the program's loggers, and its handlers and filters.

    worker                                        program
      | logger --> the root's only handler          |
      |            one message, or several of a     |
      |            long record ---- socket -------->| the thread of the logs: finds the logger by its name, and has
      | outcome of the call                         |     it handle the record
      |---------------- shared memory ------------->| whoever delivers: waits until what is in the socket is handled

All workers of an executor write to one socket, which keeps messages whole and in order: a killed worker loses at most
the record that it was writing.  A worker that logs faster than the program's handlers can follow waits for them.

The thread of the logs alone runs the handlers, so they may do what they like.  A handler that does not come back to its
record's end within a second holds up no outcome any longer: it may wait for one itself, or its lock's owner may.
"""

import array
import contextlib
import fcntl
import logging
import os
import pickle
import select
import socket
import termios
import threading
import weakref

__all__ = ["LastLog", "Receiver", "install"]

# How long an outcome waits for a record, in seconds.
_PATIENCE = 1.0

# Messages are no longer than this: the kernel refuses what does not fit into a socket's buffer.
_MESSAGE_BYTES = 1 << 15

# A message begins with the process that has sent it, in so many bytes, and one of these.
_PID_BYTES = 4
_WHOLE, _FIRST, _NEXT, _LAST = b"W", b"F", b"N", b"L"

# Values of exactly these types any process can read.
_PLAIN = frozenset([str, int, float, bool, bytes, type(None)])


def _encode_pid(pid):
    return pid.to_bytes(_PID_BYTES, "little")


# ---- the program ----


class LastLog:
    """The record that a worker has logged last; the thread of the logs writes it.  A pickle of it is its text."""

    def __init__(self):
        self.record = None

    def text(self):
        """Return it as logging formats it by default, or None."""
        if self.record is None:
            return None
        try:
            return logging.Formatter(logging.BASIC_FORMAT).format(self.record)
        except Exception:  # its arguments do not go with its text
            return str(self.record.msg)

    def __reduce__(self):
        text = self.text()
        return (type(None), ()) if text is None else (str, (text,))


class Receiver:
    """The socket of one executor, and the thread that handles what arrives there."""

    def __init__(self):
        self._socket, self._workers_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        from pyconc._log_levels import Followed  # it imports what only this needs

        self._levels = Followed()
        self._change = threading.Condition()  # re-entrant; it guards the numbers, of which the thread is the writer
        self._received = self._handled = 0  # bytes
        self._given_up = -1  # self._handled when somebody has waited in vain
        self._last = weakref.WeakValueDictionary()  # pid: LastLog, as long as somebody may want to know
        self._parts = {}  # pid: the messages so far of its long record; only the thread
        self._thread = None

    def worker_fds(self):
        """Return the workers' end, and the levels that they follow."""
        return [self._workers_end.fileno(), self._levels.fileno()]

    def start(self, name, waits_at_exit):
        """Start the thread, unless there is one, and return it."""
        if self._thread is None:
            self._thread = threading.Thread(name=name, target=self._run, daemon=not waits_at_exit)
            self._thread.start()
        return self._thread

    def keep_last(self, pid):
        """Return what will have the record that a worker has logged last.  Any thread."""
        self._last[_encode_pid(pid)] = last = LastLog()
        return last

    def wait(self):
        """Wait until what workers have sent so far is handled; see above.  Any thread."""
        with self._change:
            target = self._received + self._count_waiting()
            if threading.current_thread() is not self._thread:
                while self._handled < target and self._handled != self._given_up:
                    before = self._handled
                    if not self._change.wait(_PATIENCE) and self._handled == before:
                        self._given_up = before
                return
        # A handler waits for an outcome; the record that it handles now is not counted yet.
        while self._received < target and self._handle_next():
            pass

    def end(self):
        """The workers have ended: handle what they have sent, and end the thread."""
        self.wait()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)
        if self._thread is None:
            self.close()
        elif self._thread is not threading.current_thread():
            self._thread.join(_PATIENCE)  # else it ends when its handler lets it

    def close(self):
        """Close the files, also in the child of a fork, which has no use for them."""
        self._socket.close()
        self._workers_end.close()
        self._levels.close()

    def _count_waiting(self):
        number = array.array("i", [0])
        try:
            fcntl.ioctl(self._socket.fileno(), termios.FIONREAD, number)
        except (OSError, ValueError):
            return 0  # it is closed
        return number[0]

    def _run(self):
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        process = os.getpid()
        while process == os.getpid():
            poll.poll()
            if not self._handle_next():
                break
        self.close()

    def _handle_next(self):
        """Handle a message; return False if there will be no more.  Only the thread."""
        with self._change:
            try:
                message = self._socket.recv(_MESSAGE_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return True
            except OSError:
                return False
            self._received += len(message)
        try:
            data = self._join(message)
            if data is not None:
                _handle(data, self._last.get(message[:_PID_BYTES]))
        finally:
            with self._change:
                self._handled += len(message)
                self._change.notify_all()
        return bool(message)

    def _join(self, message):
        """Return the record that ends with a message, or None."""
        pid, kind, data = message[:_PID_BYTES], message[_PID_BYTES : _PID_BYTES + 1], message[_PID_BYTES + 1 :]
        if kind == _WHOLE:
            return data
        if kind == _FIRST:
            self._parts[pid] = [data]  # a record before that was not written to its end
        elif pid in self._parts:
            self._parts[pid].append(data)
            if kind == _LAST:
                return b"".join(self._parts.pop(pid))
        return None


def _handle(data, last):
    record = None
    try:
        record = _decode(data)
        if last is not None:
            last.record = record
        logger = logging.getLogger(record.name)
        if logger.isEnabledFor(record.levelno):
            logger.handle(record)
    except Exception:  # as logging itself says that a handler has raised
        if record is None:
            record = logging.makeLogRecord({"msg": "a record of a worker that cannot be read"})
        logging.Handler().handleError(record)


def _decode(data):
    attributes, objects = pickle.loads(data)
    for name, (value, text) in objects.items():
        attributes[name] = text
        if value is not None:
            with contextlib.suppress(Exception):  # the worker knows more than this process; the text says it
                value = pickle.loads(value)
                if name == "msg":
                    attributes["msg"], attributes["args"] = value
                else:
                    attributes[name] = value
    return logging.makeLogRecord(attributes)


# ---- a worker ----


def install(fd, levels_fd):
    """Have what this process logs go to the program alone, by the levels that are there; takes the descriptors."""
    from pyconc._log_levels import follow

    forwarder = _Forwarder(socket.socket(fileno=fd))
    for logger in [logging.root, *logging.root.manager.loggerDict.values()]:
        if isinstance(logger, logging.Logger):
            # A fork has them from the program, which has its own.
            logger.handlers.clear()
            logger.filters.clear()
            logger.propagate = True
            logger.disabled = False
    follow(levels_fd)
    logging.root.addHandler(forwarder)


class _Forwarder(logging.Handler):
    """Sends records; its lock keeps the messages of a record together."""

    def __init__(self, connection):
        super().__init__()
        self._socket = connection

    def emit(self, record):
        try:
            self._send(_encode(record))
        except Exception:
            self.handleError(record)

    def _send(self, data):
        pid = _encode_pid(os.getpid())
        size = _MESSAGE_BYTES - _PID_BYTES - 1
        kind = _WHOLE if len(data) <= size else _FIRST
        for start in range(0, len(data), size):
            if start and start + size < len(data):
                kind = _NEXT
            elif start:
                kind = _LAST
            try:
                self._socket.send(pid + kind + data[start : start + size], socket.MSG_NOSIGNAL)
            except (BrokenPipeError, ConnectionResetError):
                return  # the executor has gone


def _encode(record):
    """Return a record as bytes: what any process can read; of each other value its pickle, or None, and its text."""
    attributes = dict(record.__dict__)
    if record.exc_info and not record.exc_text:
        attributes["exc_text"] = logging.Formatter().formatException(record.exc_info)
    attributes["exc_info"] = None
    objects = {}
    args = attributes["args"]
    if (args and not (type(args) is tuple and _PLAIN.issuperset(map(type, args)))) or type(record.msg) is not str:
        objects["msg"] = _pickle((record.msg, args)), record.getMessage()
        attributes["msg"] = attributes["args"] = None
    for name, value in attributes.items():
        if type(value) not in _PLAIN and name != "args":
            objects[name] = _pickle(value), repr(value)
            attributes[name] = None
    return pickle.dumps((attributes, objects), protocol=5)


def _pickle(value):
    try:
        return pickle.dumps(value, protocol=5)
    except Exception:
        return None
