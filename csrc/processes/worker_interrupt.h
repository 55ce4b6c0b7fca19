// worker_interrupt: how a call that its parent may stop is interrupted, by an exception that a signal's
// handler raises.
//
// The handler finds in `running` which call runs, if one does, and in that call's slot whether it is to end:
// so a signal that comes late, twice or from elsewhere raises nothing, nor does any while something is
// unpacked or packed.
//
// A call that has reached its timeout is asked for nothing before: in the handler the worker looks where its
// Python code is, and sends that with the outcome.  The parent asks, by another signal, what does not end.
#ifndef PYCONC_WORKER_INTERRUPT_H
#define PYCONC_WORKER_INTERRUPT_H

#include "worker.h"

// As a call_place's get() and reason().
CallObject *worker_interrupt_get_call(call_place *place);
stop_reason worker_interrupt_reason(const call_place *place);

// As its note(): remembers where the call is that has reached its timeout, unless that is known.
void worker_interrupt_note(call_place *place);

// ---- methods of the type ----

PyDoc_STRVAR(worker_on_stop_doc,
"on_stop($self, signal, frame, /)\n--\n\n"
"Interrupt the call that this worker runs if it is to end. A handler of signals.");
PyObject *worker_on_stop(PyObject *op, PyObject *const *args, Py_ssize_t nargs);

PyDoc_STRVAR(worker_on_unraisable_doc,
"on_unraisable($self, former, signal, unraisable, /)\n--\n\n"
"Call the former sys.unraisablehook; then have a TaskCancelled that was lost raised again, by that signal.");
PyObject *worker_on_unraisable(PyObject *op, PyObject *const *args, Py_ssize_t nargs);

#endif
