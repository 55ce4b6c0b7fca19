"""ClusterExecutor: the same executor when the work outgrows one machine, on the nodes of a dask.distributed cluster.

_calls.py says how a call and its outcome travel, _node.py what a node does, _dispatcher.py what the program does, with
calls as _pending.py describes them. _node_plugin.py is for tasks of dask's own, and has nothing to do with these.
Workers import _calls.py from here, so that what needs distributed is imported when it is asked for.
"""

import sys
from importlib import import_module

__all__ = ["ClusterExecutor", "ClusterStats", "NodeDied", "NodePlugin", "NodeStats", "Ref"]

_LAZY = {
    "ClusterExecutor": "pyconc.cluster._executor",
    "ClusterStats": "pyconc.cluster._stats",
    "NodeDied": "pyconc.cluster._errors",
    "NodePlugin": "pyconc.cluster._node_plugin",
    "NodeStats": "pyconc.cluster._stats",
    "Ref": "pyconc.cluster._refs",
}


def __getattr__(name):
    if name not in _LAZY:
        message = f"module {__name__!r} has no attribute {name!r}"
        raise AttributeError(message, name=name, obj=sys.modules[__name__])
    try:
        module = import_module(_LAZY[name])
    except ModuleNotFoundError as error:
        if error.name is not None and error.name.partition(".")[0] not in ("dask", "distributed"):
            raise
        # Without its name, or Python 3.15 asks whether another module is meant.
        raise ModuleNotFoundError("pyconc.cluster needs dask.distributed: pip install pyconc[cluster]") from None
    return getattr(module, name)


def __dir__():
    return sorted([*globals(), *_LAZY])
