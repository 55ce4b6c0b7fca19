import sys
from queue import Empty as Empty
from queue import Full as Full

__all__ = ["Empty", "Full", "ShutDown"]

if sys.version_info >= (3, 13):
    from queue import ShutDown as ShutDown
else:
    class ShutDown(Exception): ...
