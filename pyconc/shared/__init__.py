"""Locks, events, numbers, lists, dicts, arrays and queues that processes share, in memory and without a server.

    lock = pyconc.shared.Lock()
    total = pyconc.shared.Counter()

They have the signatures of threading's, of multiprocessing's Value and Array, of list, dict and queue.Queue. They can
be arguments and results of pyconc's executors, arguments of an initializer and of multiprocessing.Process, and are
inherited by a fork; a worker that was started before them can have them, too. Nothing has a name in the file system,
and nothing is left when the last process has ended, however it ended. Other pickles of them are refused: there is
nothing by which a stranger could find them. They can be in items of each other: after `table["rows"] = shared.List()`
every reader of the item gets the same list.

A process that dies holds nobody up. A lock that it held goes to the next waiter, which is told; if it was waiting
itself, or was just woken, it is passed over. What a lock guards may be half changed then: only the program can judge.

In an asyncio program, on any loop, `async with` takes locks, conditions and semaphores, and what waits has a twin that
is awaited: async_acquire, async_wait, async_wait_for. (The whole word, as aiologic has it: the `a` of aiter would make
`await` of wait.) The loop goes on meanwhile. Each object that tasks of a loop wait for costs a thread that sleeps; what
can be had at once costs none. A wait that is cancelled takes nothing along: what had just become free goes to the next.
A task that waits on a loop that is closed is dropped, and nobody waits in the child of a fork.

All may be used by any thread. A lock belongs to the thread that took it: no other can release it, unlike threading's;
for that there are semaphores. When that thread ends, the lock is free. After a fork, the child's thread holds none of
its parent's locks. An interpreter that exits need not release anything.

Memory is allocated with the object, and that of a list, a dict or a queue with what is in it: MemoryError if there is
none, or if there are 65536 objects (a queue counts as four), 262144 pairs of one object in another, or 64 GB. An object
lives as long as any process has it, or an item of another that lives, and while a pickle of it is on its way; one that
nobody takes keeps its memory, 128 bytes and what is in it, until the program ends. Objects that only have each other,
and what a process had that was killed, go when there is no room for more. (Processes that made objects before they got
any of each other have memory each, and what is in an item of the other's stays until the program ends.)
"""

from pyconc._lock_abandoned import LockAbandoned
from pyconc._queue_errors import ShutDown
from pyconc.shared._arrays import Array
from pyconc.shared._conditions import Barrier, Condition, Event
from pyconc.shared._dict import Dict
from pyconc.shared._list import List
from pyconc.shared._locks import BoundedSemaphore, Lock, RLock, Semaphore
from pyconc.shared._queue import Queue
from pyconc.shared._refs import Ref, share
from pyconc.shared._values import Counter, Value

__all__ = [
    "Array",
    "Barrier",
    "BoundedSemaphore",
    "Condition",
    "Counter",
    "Dict",
    "Event",
    "List",
    "Lock",
    "LockAbandoned",
    "Queue",
    "RLock",
    "Ref",
    "Semaphore",
    "ShutDown",
    "Value",
    "share",
]
