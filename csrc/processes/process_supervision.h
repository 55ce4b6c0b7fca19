// process_supervision: the methods of a ProcessQueue for its supervisor, pyconc/_process/supervisor.py.
//
// The supervisor's thread alone starts, admits, interrupts, kills and reaps workers.  It sleeps until the
// queue is poked, or the timer fires, or a worker ends.  What the timer is for it does without the GIL, if it
// can.
#ifndef PYCONC_PROCESS_SUPERVISION_H
#define PYCONC_PROCESS_SUPERVISION_H

#include "process_queue.h"

// ---- the supervisor's files, and calls that are to end ----

PyDoc_STRVAR(process_queue_supervise_doc,
"supervise($self, stop_signal, /)\n--\n\n"
"Return two file descriptors for the supervisor to watch, which the queue owns: one is readable after\n"
"poke(), the other when await_event() has something to do. stop_signal: the one that has a worker call\n"
"on_stop().");
PyObject *process_queue_supervise(PyObject *op, PyObject *arg);

PyDoc_STRVAR(process_queue_end_supervision_doc,
"end_supervision($self, /)\n--\n\n"
"Close what supervise() returned: the supervisor has ended.");
PyObject *process_queue_end_supervision(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_poke_doc,
"poke($self, /)\n--\n\n"
"Wake the supervisor. Any thread, also a signal handler, may call it.");
PyObject *process_queue_poke(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_await_event_doc,
"await_event($self, events, seconds, /)\n--\n\n"
"Wait until a file is ready that an epoll object, given by its number, watches, and return that file's;\n"
"None after so many seconds, which may be None.\n\n"
"Of what the timer is for it returns only what the supervisor has to see to. Tasks whose time is over are\n"
"interrupted here, and those looked after that have been ready for a while, as the worker that was notified\n"
"may be stopped: without the GIL, for which a busy program lets nobody wait less than its switch interval.");
PyObject *process_queue_await_event(PyObject *op, PyObject *args);

PyDoc_STRVAR(process_queue_pop_stop_doc,
"pop_stop($self, /)\n--\n\n"
"Return what to do about a call that is to end, or None: (task, worker, seconds, is_late). The worker is to\n"
"be interrupted, once more if cancel() has done so, and condemn_worker(task) called after so many seconds;\n"
"without seconds, at once. is_late: its time is over, and note_stack() is to be told where it is.");
PyObject *process_queue_pop_stop(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_note_stack_doc,
"note_stack($self, task, stack, /)\n--\n\n"
"Note where a task that pop_stop() returned was, for its exception: a str, or what returns it, or None,\n"
"when the task has ended.");
PyObject *process_queue_note_stack(PyObject *op, PyObject *args);

PyDoc_STRVAR(process_queue_find_stopping_doc,
"find_stopping($self, task, /)\n--\n\n"
"Return the number of the worker that runs a call which is to end. None: the call has ended.");
PyObject *process_queue_find_stopping(PyObject *op, PyObject *arg);

PyDoc_STRVAR(process_queue_condemn_worker_doc,
"condemn_worker($self, task, /)\n--\n\n"
"Return the number of the worker that runs a call which is to end; the caller kills it at once. None: the\n"
"call has ended.");
PyObject *process_queue_condemn_worker(PyObject *op, PyObject *arg);

PyDoc_STRVAR(process_queue_give_up_doc,
"give_up($self, task, /)\n--\n\n"
"Tell the future of a call whose worker condemn_worker() has named, and which does not end although it was\n"
"killed. Does nothing if the call has ended.");
PyObject *process_queue_give_up(PyObject *op, PyObject *arg);

// ---- workers ----

PyDoc_STRVAR(process_queue_reserve_worker_doc,
"reserve_worker($self, /)\n--\n\n"
"Count one more worker and return True if tasks outnumber workers and there may be one more.");
PyObject *process_queue_reserve_worker(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_add_worker_doc,
"add_worker($self, change, /)\n--\n\n"
"Count workers that were started without being asked for (1), or have gone (-1).");
PyObject *process_queue_add_worker(PyObject *op, PyObject *arg);

PyDoc_STRVAR(process_queue_reap_doc,
"reap($self, worker, make_error, /)\n--\n\n"
"Settle the affairs of a worker that is dead; return two flags: it leaves a task behind, and some\n"
"worker has finished one since reap() was last called.\n\n"
"The result handler delivers what the worker had finished, and fails each task that it had taken with\n"
"make_error(callable, name or None, for how many seconds it had run or None). Its memory is taken back,\n"
"and its number is free.");
PyObject *process_queue_reap(PyObject *op, PyObject *args);

PyDoc_STRVAR(process_queue_count_recycled_doc,
"count_recycled($self, /)\n--\n\n"
"Count a worker that has left so that another one takes its place.");
PyObject *process_queue_count_recycled(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_condemn_doc,
"condemn($self, /)\n--\n\n"
"Note that a worker has ended because it found the shared memory damaged. Call it before reap().");
PyObject *process_queue_condemn(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_take_condemned_doc,
"take_condemned($self, /)\n--\n\n"
"Return True when a worker has written over what the processes share, the first time: kill every worker.\n\n"
"When the last one is reaped, the queue goes on with what no worker had taken.");
PyObject *process_queue_take_condemned(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_wants_relief_doc,
"wants_relief($self, worker, /)\n--\n\n"
"Return True if a worker asks to be replaced, and the one that is to replace it has not begun.");
PyObject *process_queue_wants_relief(PyObject *op, PyObject *arg);

PyDoc_STRVAR(process_queue_admit_doc,
"admit($self, worker, pid, pidfd, /)\n--\n\n"
"Let a worker that was started take tasks. The supervisor can see its end from here on.\n\n"
"pidfd: stays open until forget_pidfd(); where the system has none, another file that tells of the end.");
PyObject *process_queue_admit(PyObject *op, PyObject *args);

PyDoc_STRVAR(process_queue_forget_pidfd_doc,
"forget_pidfd($self, worker, /)\n--\n\n"
"Let the caller close the file that admit() was given: the worker has ended.");
PyObject *process_queue_forget_pidfd(PyObject *op, PyObject *arg);

PyDoc_STRVAR(process_queue_close_workers_doc,
"close_workers($self, /)\n--\n\n"
"Have the workers leave when nothing is left for them to take.");
PyObject *process_queue_close_workers(PyObject *op, PyObject *Py_UNUSED(ignored));

#endif
