"""The fields of a process executor of ours that the standard class's submit() needs.

Ours overrides it.  It is called all the same where somebody has patched it and the patch calls the original, or by its
name.
"""

__all__ = ["StandardSubmit"]


def _end_both(item_future, future):
    """Hand the outcome of our future on to that of a work item."""
    if future.cancelled():
        item_future.cancel()
    if not item_future.set_running_or_notify_cancel():
        return
    if (exception := future.exception()) is not None:
        item_future.set_exception(exception)
    else:
        item_future.set_result(future.result())


class _PendingItems:
    """Sends each work item on its way when it is entered; its length is the number of tasks that have not ended."""

    def __init__(self, executor):
        self._executor = executor

    def __setitem__(self, number, item):
        future = self._executor._submit(item.fn, *item.args, **item.kwargs)
        item.future.add_done_callback(lambda item_future: item_future.cancelled() and future.cancel())
        future.add_done_callback(lambda future: _end_both(item.future, future))

    def __len__(self):
        return self._executor._tasks.outstanding()


class _Nothing:
    """The standard executor's list of numbers, and its pipe to the thread that starts workers."""

    def put(self, number):
        pass

    def wakeup(self):
        pass


class StandardSubmit:
    """The private parts of the standard class that its submit() uses, as far as ours has no others for them."""

    _work_ids = _executor_manager_thread_wakeup = _Nothing()

    @property
    def _queue_count(self):
        """How many tasks were submitted."""
        return self.stats().submitted

    @_queue_count.setter
    def _queue_count(self, count):
        pass  # An item's entry below has submitted it.

    @property
    def _pending_work_items(self):
        return _PendingItems(self)

    def _adjust_process_count(self):
        """Do nothing: ours starts workers as tasks come."""

    _start_executor_manager_thread = _launch_processes = _spawn_process = _adjust_process_count
