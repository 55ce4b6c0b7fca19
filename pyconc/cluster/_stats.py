"""The objects that stats() of a ClusterExecutor returns."""

from typing import NamedTuple

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


class ClusterStats(NamedTuple):
    """A ClusterExecutor's present work, and all that it has done, as numbers.

    nodes: a NodeStats for each node that takes calls now. queued: calls that were sent to no node yet. running: calls
    that were sent, and have not ended. submitted: calls that the executor has accepted. Each ends in one of four ways:
    completed: it has returned something. failed: it has raised something, or could not be pickled or unpickled.
    cancelled: before it was sent. died: its worker or its node was lost, and it was not to begin again.
    again: how often a call began again, by `retries`.

    Raises nothing.

        >>> from pyconc.cluster import ClusterStats
        >>> ClusterStats((), 0, 0, submitted=3, completed=2, failed=1, cancelled=0, died=0, again=0).failed
        1
    """

    __module__ = __package__

    nodes: "tuple[NodeStats, ...]"
    queued: int
    running: int
    submitted: int
    completed: int
    failed: int
    cancelled: int
    died: int
    again: int
