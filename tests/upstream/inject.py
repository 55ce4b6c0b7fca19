"""Makes an interpreter's own tests meet pyconc; run.py has every interpreter of its environment import this at start.

A `.pth` file is read even by the `python -I` children that those tests start, which would otherwise test the standard
library.  pyconc.install() alone replaces the executors.  The tests also make futures by hand, so the name `Future` is
replaced here, before any test module has taken it; and, when asked, the functions that wait for futures.

They demand of the process executor that one dead worker breaks it, which pyconc's does when asked to: here it is the
default.
"""

import os
import sys


def in_subinterpreter() -> bool:
    """Whether this is one of those that InterpreterPoolExecutor makes, where pyconc does not load."""
    if sys.version_info < (3, 14):
        return False
    from concurrent import interpreters

    return interpreters.get_current() != interpreters.get_main()


if not in_subinterpreter():
    import concurrent.futures

    import pyconc

    pyconc.install()

    concurrent.futures.Future = concurrent.futures._base.Future = pyconc.Future
    pyconc.ProcessPoolExecutor.__init__.__kwdefaults__["on_worker_death"] = "break"

    # The standard functions, which install() has replaced too, are those of programs that imported them before.
    waiting = pyconc if "PYCONC_NATIVE_WAIT" in os.environ else concurrent.futures._base
    for module in (concurrent.futures, concurrent.futures._base):
        module.wait = waiting.wait
        module.as_completed = waiting.as_completed
