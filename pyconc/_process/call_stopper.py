"""The end of calls that are to end: they are interrupted, and what has not ended in time is killed with its worker.

The queue tells which calls those are, by ProcessQueue.pop_stop(); the supervisor's thread alone uses what is here.
"""

import functools
import heapq
import time

from pyconc._process import black_box, kernel
from pyconc._process.signals import STOP

__all__ = ["CallStopper"]

# A signal to interrupt a call comes to nothing if its worker is just about to enter a system call: the interpreter has
# noted it, and sleeps all the same. So it is sent again as long as the call goes on, first after so many seconds, then
# less and less often, at last once in so many.
_FIRST_REPEAT = 0.02
_LAST_REPEAT = 1.0

# How long, in seconds, a worker that was killed may take to end until its call's future is told all the same: in an
# uninterruptible system call, as on a file server that is gone, it does not end.  Many times what others need to give
# back their memory.
_END_SECONDS = 2.0


class CallStopper:
    """Ends calls of one executor.

    queue: the executor's ProcessQueue.  box: its BlackBox.  is_loop: its workers run event loops, many calls at a time.
    """

    def __init__(self, queue, box, is_loop):
        self._queue = queue
        self._box = box
        self._is_loop = is_loop
        self._overdue = []  # heap of (when a call must have ended, its number)
        self._killed = []  # heap of (when to give up the call whose worker was killed, its number)
        self._repeats = []  # heap of (when to interrupt a call again, its number, seconds since it was last done)

    def due(self):
        """Return when stop_calls() has something to do though the queue tells of nothing, or None."""
        return min((heap[0][0] for heap in (self._overdue, self._killed, self._repeats) if heap), default=None)

    def is_due(self):
        return any(map(_is_due, (self._overdue, self._killed, self._repeats)))

    def stop_calls(self, supervisor):
        """Interrupt the calls that are to end and do not, and kill the workers whose calls have not ended in time."""
        late = {}  # workers that are to be killed as their calls have used up their time: (Answer, those calls)
        while (order := self._queue.pop_stop()) is not None:
            call, number, grace, is_late = order
            worker = supervisor.worker_with(number)
            if worker is None:
                continue  # It has ended, and the call with it.
            asks = is_late and not self._is_loop  # a loop is asked if it is killed
            answer = None
            if asks:
                # It is there before the call ends for the exception, or by itself, and if the worker is slow to answer.
                note = functools.partial(self._queue.note_stack, call)
                answer = self._box.request(*worker.identify(), note)
            if asks and not grace:  # None: at once; 0: it was interrupted, and its grace is over
                late.setdefault(worker, (answer, []))[1].append(call)
                continue
            self._stop_call(supervisor, worker, call, grace)
        # All of them have been asked where they stand before the first answer is awaited.
        asked = [(*worker.identify(), answer) for worker, (answer, _) in late.items()]
        for number, _ in self._box.wait(asked):
            for call in late[supervisor.worker_with(number)][1]:
                self._kill_for(supervisor, call)
        while _is_due(self._overdue):
            self._kill_for(supervisor, heapq.heappop(self._overdue)[1])
        while _is_due(self._killed):
            self._queue.give_up(heapq.heappop(self._killed)[1])
        while _is_due(self._repeats):
            _, call, seconds = heapq.heappop(self._repeats)
            worker = supervisor.worker_with(self._queue.find_stopping(call))
            if worker is not None:
                self._interrupt(worker, call, min(4 * seconds, _LAST_REPEAT))

    def _stop_call(self, supervisor, worker, call, grace):
        if grace is None:
            self._kill_for(supervisor, call)
            return
        if not self._is_loop:  # a loop has its inbox
            self._interrupt(worker, call, _FIRST_REPEAT)
        heapq.heappush(self._overdue, (time.monotonic() + grace, call))

    def _interrupt(self, worker, call, seconds):
        kernel.send_signal(worker.end, worker.process.pid, STOP)
        worker.pass_on(STOP)
        heapq.heappush(self._repeats, (time.monotonic() + seconds, call, seconds))

    def _kill_for(self, supervisor, call):
        """Kill the worker that runs this call, if it still does."""
        worker = supervisor.worker_with(self._queue.condemn_worker(call))
        if worker is not None:
            worker.is_stopped = True
            if self._is_loop:
                worker.stack = supervisor.stack_of(worker)  # for the other coroutines that it runs, too
                if worker.stack is not None:
                    self._queue.note_stack(call, black_box.trim(worker.stack))
            supervisor.end_workers([worker])
            supervisor.launcher.wake()
            heapq.heappush(self._killed, (time.monotonic() + _END_SECONDS, call))


def _is_due(heap):
    return bool(heap) and heap[0][0] <= time.monotonic()
