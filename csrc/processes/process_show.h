// process_show: the methods of a ProcessQueue by which this program sees what it does: counts, and workers.
#ifndef PYCONC_PROCESS_SHOW_H
#define PYCONC_PROCESS_SHOW_H

#include "process_queue.h"

PyDoc_STRVAR(process_queue_qsize_doc,
"qsize($self, /)\n--\n\n"
"Return the number of tasks that wait for a worker.");
PyObject *process_queue_qsize(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_empty_doc,
"empty($self, /)\n--\n\n"
"Return True if no task waits for a worker.");
PyObject *process_queue_empty(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_outstanding_doc,
"outstanding($self, /)\n--\n\n"
"Return the number of tasks that wait for a worker or are run by one.");
PyObject *process_queue_outstanding(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_stats_doc,
"stats($self, /)\n--\n\n"
"Return what PoolStats has after the name and the most workers.");
PyObject *process_queue_stats(PyObject *op, PyObject *Py_UNUSED(ignored));

PyDoc_STRVAR(process_queue_workers_doc,
"workers($self, /)\n--\n\n"
"Return a list with (number, callable or None, name or None, began or None, seconds or None, ended,\n"
"running, phase) for each number of a worker: the call that it runs, since when by time.monotonic() and for\n"
"how long; how many tasks it has ended, and runs; and what it does: 0 starts, 1 idles, 2 unpickles that\n"
"call, 3 runs it, 4 pickles its result.");
PyObject *process_queue_workers(PyObject *op, PyObject *Py_UNUSED(ignored));

#endif
