// worker_loop: a worker with doorbells, which runs an event loop instead of run(), and many coroutines at
// once: what its Python half (pyconc/_process/loop_worker.py) calls.  That takes calls, several at a time,
// and finishes each when its coroutine ends.
#ifndef PYCONC_WORKER_LOOP_H
#define PYCONC_WORKER_LOOP_H

#include "worker.h"

PyDoc_STRVAR(worker_take_doc,
"take($self, most, /)\n--\n\n"
"Take a fair share of the calls that are ready, and not more than a number of them.\n\n"
"Return (wanted, calls), lists of (handle, callable, args, kwargs or None), with (name, timeout, deadline)\n"
"at the end if one of these is not None. In wanted are first the calls that only this worker may run, and\n"
"just handles, of calls to be cancelled if they still run; to be looked at in order.");
PyObject *worker_take(PyObject *op, PyObject *most);

PyDoc_STRVAR(worker_begin_doc,
"begin($self, handle, /)\n--\n\n"
"Note that a call whose time is limited begins now, and return when that is, by time.monotonic(); or finish\n"
"it and return None: its deadline has passed.");
PyObject *worker_begin(PyObject *op, PyObject *handle);

PyDoc_STRVAR(worker_asked_doc,
"asked($self, handle, /)\n--\n\n"
"Return why a call that this worker has taken is to end, as Call.reason() does; None: it is not.");
PyObject *worker_asked(PyObject *op, PyObject *handle);

PyDoc_STRVAR(worker_finish_doc,
"finish($self, handle, task, where=None, /)\n--\n\n"
"Send the outcome of a call: that of an asyncio.Task which is done, or an exception. where: of a call whose\n"
"time is over, a str: where it was then, to be sent instead.");
PyObject *worker_finish(PyObject *op, PyObject *const *args, Py_ssize_t nargs);

PyDoc_STRVAR(worker_listen_doc,
"listen($self, is_idle, /)\n--\n\n"
"Say that the doorbell is to be rung when there is work; is_idle: that there is nothing else to do.\n\n"
"Return True if it will be, False if there is work already, and None when there never will be more.");
PyObject *worker_listen(PyObject *op, PyObject *is_idle);

PyDoc_STRVAR(worker_leave_doc,
"leave($self, /)\n--\n\n"
"Say that this worker takes nothing any more.");
PyObject *worker_leave(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(worker_is_closed_doc,
"is_closed($self, /)\n--\n\n"
"Return True when the parent has no more calls, nor consumers of streams.");
PyObject *worker_is_closed(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(worker_identify_doc,
"identify($self, /)\n--\n\n"
"Return this worker's number and generation, for ProcessQueue.submit_to_worker().");
PyObject *worker_identify(PyObject *op, PyObject *Py_UNUSED(ignored));

#endif
