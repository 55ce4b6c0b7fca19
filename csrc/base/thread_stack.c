#include "thread_stack.h"

#include <frameobject.h>  // PyFrame_GetBack() before Python 3.11

// As many frames as faulthandler writes.
#define FRAMES_MAX 100

// Adds a line for a frame to a text that it replaces; NULL with an exception.
static PyObject *
add_line(PyObject *text, PyFrameObject *frame)
{
    PyCodeObject *code = PyFrame_GetCode(frame);
    PyObject *longer = PyUnicode_FromFormat("%U  File \"%U\", line %d in %U\n", text, code->co_filename,
                                            PyFrame_GetLineNumber(frame), code->co_name);
    Py_DECREF(code);
    Py_DECREF(text);
    return longer;
}

PyObject *
thread_stack(PyThreadState *thread, unsigned long thread_id, const PyObject *base)
{
    char title[64];
    snprintf(title, sizeof(title), "Thread 0x%016lx (most recent call first):\n", thread_id);
    PyFrameObject *frame = PyThreadState_GetFrame(thread);
    PyObject *text = PyUnicode_FromString(title);
    for (int i = 0; i < FRAMES_MAX && frame != NULL && text != NULL; i++) {
        text = add_line(text, frame);
        PyFrameObject *caller = (PyObject *)frame == base ? NULL : PyFrame_GetBack(frame);
        Py_DECREF(frame);
        frame = caller;
    }
    Py_XDECREF(frame);
    PyErr_Clear();
    return text;
}
