"""concurrent, with pyconc's executors: change ``import concurrent.futures`` to ``from pyconc import concurrent``."""

import concurrent as _standard

from pyconc.concurrent import futures as futures

__all__ = ["futures"]

TYPE_CHECKING = False  # typing takes longer to import than this package

if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        # Newer standard packages hold more, such as `concurrent.interpreters`.
        try:
            return getattr(_standard, name)
        except AttributeError:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from None
