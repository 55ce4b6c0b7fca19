"""What a worker has as the program has it, though it was cloned from a process that was made earlier.

Two kinds.  What a new worker can take over is sent to it: folder, environment, time zone, sys.path, filters of
warnings, umask, limits, affinity, niceness, scheduling policy, how readily the kernel ends it for want of memory,
signal mask, which signals are ignored, locale, and settings of the interpreter.  And the program's rights: user,
groups, capabilities, namespaces, root folder.  A worker gives up what the program has given up since: user, groups,
capabilities.  Where that does not make it equal, it does not begin, and the zygote is replaced.

Affinity, niceness, policy and signal mask are those of the program's main thread.
"""

import _locale
import _signal
import contextlib
import os
import pickle
import posix
import signal
import sys
import time
import warnings

from pyconc import _core
from pyconc._process import signals

__all__ = [
    "OF_INTERPRETER",
    "ProcessState",
    "adopt",
    "adopt_rights",
    "current_rights",
    "is_privileged",
    "may_become",
    "pack",
]

_OOM_SCORE_ADJ = "/proc/self/oom_score_adj"

_NAMESPACES = [
    (name, f"/proc/self/ns/{name}") for name in ("cgroup", "ipc", "mnt", "net", "pid_for_children", "user", "uts")
]

# Lines of /proc/self/status.
_RIGHTS = (
    "Uid",
    "Gid",
    "Groups",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Seccomp_filters",
)

# Signals of which a worker does what the program does: what else means something to workers is in signals.py.
_SIGNALS = [
    number
    for number in range(1, _signal.SIGSYS + 1)
    if number not in (_signal.SIGINT, _signal.SIGTERM, _signal.SIGCHLD, _signal.SIGKILL, _signal.SIGSTOP)
]

# What a fresh interpreter has otherwise than a program that has set it; the rest of the first kind it inherits.
OF_INTERPRETER = (
    "filters",
    "ignores_interrupts",
    "signals",
    "locale",
    "recursion_limit",
    "switch_interval",
    "digits",
    "socket_timeout",
)

# Of these, what _core tells and limits, in its order.
_CAPABILITIES = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp")

_STATUS_LINES = (*_RIGHTS, "Umask", "SigBlk")


class ProcessState:
    """The program's present state.  Takes some 50 microseconds to read, a tenth of a fork."""

    def __init__(self):
        pid = os.getpid()
        status = _read_status()
        self.rights = _rights(status)
        self.cwd = _or_none(os.getcwd)  # it may have been removed
        self.environ = os.environb._data.copy()  # item by item it would take as long as a quarter of a fork
        self.timezone = time.tzname, time.timezone, time.altzone  # as of when the program last called tzset()
        self.path = list(sys.path)
        self.filters = list(warnings.filters)
        self.umask = int(status["Umask"], 8) if "Umask" in status else None
        self.limits = _or_none(_core.read_limits)
        self.affinity = _or_none(os.sched_getaffinity, pid)
        self.nice = _or_none(os.getpriority, os.PRIO_PROCESS, pid)
        self.scheduling = _or_none(_read_scheduling, pid)
        self.oom_score_adj = _or_none(_read_oom_score_adj)
        self.mask = int(status["SigBlk"], 16) if "SigBlk" in status else None
        self.ignores_interrupts = signals.ignores_interrupts()
        self.signals = _read_signals()
        self.locale = _locale.setlocale(_locale.LC_ALL)
        self.recursion_limit = sys.getrecursionlimit()
        self.switch_interval = sys.getswitchinterval()
        self.digits = _max_digits()
        self.socket_timeout = _socket_timeout()

    def changes_since(self, earlier):
        """Return what a worker is to take over, as a dictionary: rights by adopt_rights(), the rest by adopt()."""
        return {name: value for name, value in vars(self).items() if getattr(earlier, name) != value}


def pack(changes):
    """Pickle each change by itself: one that cannot be pickled here, or unpickled there, costs no other."""
    packed = {}
    for name, value in changes.items():
        try:
            packed[name] = pickle.dumps(value)
        except Exception:
            if name == "filters":  # The category of some filter; the others count.
                packed[name] = pickle.dumps([each for each in value if _is_picklable(each)])
    return packed


def adopt(packed):
    """In a worker that begins: take over what the program has, as far as it can be had."""
    for name, data in packed.items():
        try:
            _ADOPT[name](pickle.loads(data))
        except Exception:
            pass  # A category of warnings that is not known here, a folder that is gone, a right that it has not.


def _adopt_environ(environ):
    for name in set(os.environb) - set(environ):
        del os.environb[name]
    os.environb.update(environ)


def _adopt_path(path):
    sys.path[:] = path


def set_warnings_filters(filters):
    warnings.resetwarnings()  # which also makes the module forget what it has looked up
    warnings.filters[:] = filters


def _read_scheduling(pid):
    """Return the policy and its priority; None if the program's children are not to inherit them."""
    policy = os.sched_getscheduler(pid)
    if policy & os.SCHED_RESET_ON_FORK:
        return None
    # The usual policy has no other priority than 0.
    return policy, 0 if policy == os.SCHED_OTHER else os.sched_getparam(pid).sched_priority


def _adopt_scheduling(scheduling):
    policy, priority = scheduling
    os.sched_setscheduler(0, policy, os.sched_param(priority))


def _read_oom_score_adj():
    file = os.open(_OOM_SCORE_ADJ, os.O_RDONLY)  # open() would ask for its size and kind, too
    try:
        return os.read(file, 100)
    finally:
        os.close(file)


def _adopt_oom_score_adj(score):
    with open(_OOM_SCORE_ADJ, "wb", buffering=0) as file:
        file.write(score)


def _adopt_mask(mask):
    signal.pthread_sigmask(signal.SIG_SETMASK, [number for number in range(1, 65) if mask >> (number - 1) & 1])


def _read_signals():
    """Return SIG_IGN or SIG_DFL for each of them, or None: the program has a handler for it."""
    return [each if isinstance(each, int) else None for each in map(_signal.getsignal, _SIGNALS)]


def _adopt_signals(wanted):
    for number, handler, own in zip(_SIGNALS, wanted, _read_signals()):
        if handler not in (None, own):
            _signal.signal(number, handler)


def _max_digits():
    return sys.get_int_max_str_digits() if hasattr(sys, "get_int_max_str_digits") else None  # older than 3.10.7


def _socket_timeout():
    module = sys.modules.get("_socket")
    return module and module.getdefaulttimeout()


def _adopt_socket_timeout(seconds):
    import _socket

    _socket.setdefaulttimeout(seconds)


_ADOPT = {
    "cwd": lambda cwd: cwd is None or os.chdir(cwd),
    "environ": _adopt_environ,
    "timezone": lambda _: time.tzset(),  # from the environment, which comes before it
    "path": _adopt_path,
    "filters": set_warnings_filters,
    "umask": lambda umask: umask is None or os.umask(umask),
    "limits": lambda limits: limits is None or _core.set_limits(limits),
    "affinity": lambda cpus: cpus is None or os.sched_setaffinity(0, cpus),
    "nice": lambda nice: nice is None or os.setpriority(os.PRIO_PROCESS, 0, nice),
    "scheduling": lambda scheduling: scheduling is None or _adopt_scheduling(scheduling),
    "oom_score_adj": lambda score: score is None or _adopt_oom_score_adj(score),
    "mask": lambda mask: mask is None or _adopt_mask(mask),
    "ignores_interrupts": signals.adopt_interrupts,
    "signals": _adopt_signals,
    "locale": lambda name: _locale.setlocale(_locale.LC_ALL, name),
    "recursion_limit": sys.setrecursionlimit,
    "switch_interval": sys.setswitchinterval,
    "digits": lambda digits: digits is None or sys.set_int_max_str_digits(digits),
    "socket_timeout": _adopt_socket_timeout,
}


def _is_picklable(value):
    try:
        pickle.dumps(value)
    except Exception:
        return False
    return True


def _or_none(function, *args):
    try:
        return function(*args)
    except OSError:
        return None


# ---- rights ----


def current_rights():
    """Return the program's rights: something to compare."""
    return _rights(_read_status())


def _read_status():
    """Return what those lines of /proc/self/status say, by their names; where there is no /proc, most of the rights."""
    try:
        return _core.read_status(_STATUS_LINES)
    except OSError:
        return _ask_kernel()


def _ask_kernel():
    ids = {"Uid": os.getresuid(), "Gid": os.getresgid(), "Groups": sorted(os.getgroups())}
    status = {name: "\t".join(map(str, numbers)) for name, numbers in ids.items()}
    with contextlib.suppress(OSError):
        status |= {name: f"{number:x}" for name, number in zip(_CAPABILITIES, _core.read_capabilities())}
    return status


def _rights(status):
    rights = {name: status[name] for name in _RIGHTS if name in status}
    for name, path in _NAMESPACES:
        rights[name] = _or_none(os.readlink, path)
    root = _or_none(os.stat, "/")
    rights["/"] = root and (root.st_dev, root.st_ino)
    return rights


def is_privileged():
    """Whether the program has rights of which os.setuid() and the like could take some."""
    status = _read_status()
    if "CapPrm" not in status:
        return os.geteuid() == 0 or len({*os.getresuid()}) > 1
    return int(status["CapPrm"], 16) != 0 or len({*os.getresuid()}) > 1 or len({*os.getresgid()}) > 1


def may_become(rights, wanted):
    """Whether a process with such rights can give up some to have just the wanted ones, as far as is known before."""
    differing = {name for name in rights.keys() | wanted.keys() if rights.get(name) != wanted.get(name)}
    return differing <= {"Uid", "Gid", "Groups", "CapPrm", "CapEff", "CapAmb"}


def adopt_rights(rights):
    """Give up what the program has given up.  Raises PermissionError if that does not make this process equal."""
    own = current_rights()
    if rights == own:
        return
    if rights["Groups"] != own["Groups"]:
        posix.setgroups([int(group) for group in rights["Groups"].split()])
    if rights["Gid"] != own["Gid"]:
        posix.setresgid(*_ids(rights["Gid"]))
    if rights["Uid"] != own["Uid"]:
        posix.setresuid(*_ids(rights["Uid"]))
    if rights.keys() >= set(_CAPABILITIES):
        _core.limit_capabilities(*(int(rights[name], 16) for name in _CAPABILITIES[:6]))
    if current_rights() != rights:
        raise PermissionError("this process cannot have just the program's rights")


def _ids(line):
    return [int(number) for number in line.split()[:3]]
