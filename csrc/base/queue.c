#include "queue.h"

void
queue_close_collected(queue_head *queue)
{
    PyObject *message = PyUnicode_FromString("cannot schedule new futures after shutdown");
    if (message == NULL) {
        PyErr_Clear();
        message = Py_NewRef(Py_None);
    }
    queue->kind->close(queue, PyExc_RuntimeError, message);
    Py_DECREF(message);
}

// The trace that is on knows the queue from here on.
static void
introduce(queue_head *queue)
{
    if (!trace_knows(&queue->label)) {
        PyObject *name = queue->kind->name(queue);
        PyErr_Clear();
        trace_name(&queue->label, name);
        Py_XDECREF(name);
    }
}

void
queue_trace_submit(queue_head *queue, task *t, PyObject *name)
{
    introduce(queue);
    t->traced = trace_submit(&queue->label, task_called(t), name);
}

void
queue_trace_worker(queue_head *queue, trace_kind what, uint32_t process, bool lost_calls)
{
    introduce(queue);
    trace_worker(&queue->label, what, process, lost_calls);
}
