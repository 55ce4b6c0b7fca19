"""The objects that stats() of a ClusterExecutor returns."""

from collections import namedtuple
from typing import NamedTuple

from pyconc._stats import PoolStats

__all__ = ["ClusterStats", "NodeStats"]


class NodeStats(NamedTuple):
    """The present work of a node.

    address: the node's, as dask has it. workers: how many worker processes it may have. running: calls that were sent
    to it and have not ended. ended: calls that have, since the executor has known it. call_seconds: for how long its
    recent calls have run, on average; None: none has ended. transport: "direct": the program is connected to the node;
    "scheduler": it cannot be, and messages go by way of the scheduler.

    Raises nothing.

        >>> from pyconc.cluster import NodeStats
        >>> address = "tcp://10.0.0.7:40331"
        >>> NodeStats(address, workers=8, running=8, ended=96, call_seconds=0.5, transport="direct").workers
        8
    """

    __module__ = __package__

    address: str
    workers: int
    running: int
    ended: int
    call_seconds: "float | None"
    transport: str


class ClusterStats(namedtuple("ClusterStats", (*PoolStats._fields, "nodes", "again"))):
    """A ClusterExecutor's present work, and all that it has done, as numbers: those of pyconc.PoolStats, and two more.

    workers, max_workers: how many worker processes the present nodes may have together; each starts them as it needs
    them. idle: at least so many of these have no call.
    queued: calls that were sent to no node yet. running: calls that were sent, and have not ended.
    cancelled: before they were sent, or while a node had them. died: their workers or nodes were lost, and they were
    not to begin again. recycled: workers that had more memory than max_rss_per_child, as far as nodes have told.
    stolen: calls that a node has given back, as they waited there while another node had nothing to do.
    abandoned is 0, and run and wait are None.

    nodes: a NodeStats for each node that takes calls now. again: how often a call began again, by `retries`.

    Raises nothing.

        >>> from pyconc.cluster import ClusterExecutor
        >>> with ClusterExecutor(workers_per_node=1, name="far") as executor:
        ...     future = executor.submit(len, "abc")
        ...     print(future.result(), executor.stats()._asdict())  # doctest: +ELLIPSIS
        3 {'name': 'far', 'max_workers': 1, ..., 'completed': 1, ...}
    """

    __module__ = __package__
    __slots__ = ()
