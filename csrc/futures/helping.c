#include "helping.h"

_Thread_local helper *helping_self;

void
helping_refuse(void)
{
    PyErr_SetString(PyExc_RuntimeError,
                    "deadlock: this task waits for a future that can be done only when the task has "
                    "returned");
}
