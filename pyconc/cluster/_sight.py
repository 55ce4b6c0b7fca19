"""What nodes answer to one question of workers(): what their workers do."""

import threading

from pyconc.cluster import _calls as calls

__all__ = ["Sight"]


class Sight:
    """The dispatcher's thread expects and receives answers, by node; another one waits for them."""

    def __init__(self):
        self._missing = set()
        self._answers = []  # packed; of nodes in the order in which they answer
        self._is_complete = threading.Event()

    def expect(self, node):
        self._missing.add(node)

    def receive(self, node, packed):
        """None: the node is gone."""
        self._missing.discard(node)
        if packed is not None:
            self._answers.append(packed)
        self.end_if_complete()

    def end_if_complete(self):
        if not self._missing:
            self._is_complete.set()

    def wait(self, timeout):
        """Return a list of WorkerStats, those of one node together, when all have answered or the time is over."""
        self._is_complete.wait(timeout)
        found = [calls.unpack(packed) for packed in list(self._answers)]
        return [worker for workers in sorted(found, key=_address_of) for worker in workers]


def _address_of(workers):
    return workers[0].node if workers else ""
