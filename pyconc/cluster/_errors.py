"""The exception of a call whose node is gone."""

from pyconc._process.pickling import WorkerDied

__all__ = ["NodeDied"]


class NodeDied(WorkerDied):
    """The node that a call was sent to is gone: its process, its machine, or the way to it.

    Raised by the call's future. The call may have run, in part or to its end. `node` is the node's address, `task` the
    callable, `task_name` its name; what else a WorkerDied has is None. It can be pickled if `task` can.

        >>> from pyconc.cluster import NodeDied
        >>> issubclass(NodeDied, pyconc.WorkerDied)
        True
    """

    __module__ = __package__

    def __init__(self, message, node=None, task=None, *, task_name=None):
        super().__init__(message, task=task, task_name=task_name)
        self.node = node
