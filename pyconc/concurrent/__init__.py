"""concurrent, with pyconc's executors: change ``import concurrent.futures`` to ``from pyconc import concurrent``."""

import concurrent as _standard

from pyconc._standard_names import names_of
from pyconc.concurrent import futures as futures

__all__ = ["futures"]

TYPE_CHECKING = False  # typing takes longer to import than this package

if not TYPE_CHECKING:
    # Newer standard packages hold more, such as `concurrent.interpreters`.
    __getattr__ = names_of(_standard, __name__)
