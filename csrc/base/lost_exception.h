// lost_exception: TaskCancelled that is raised where the interpreter cannot pass it on.
//
// In a destructor, or a weak reference's callback, the interpreter calls sys.unraisablehook with it and goes
// on, and so would the call that was to end.  So sys.unraisablehook is ours while there are calls in threads
// whose end was asked for: it calls the one that was there, which the program may have set, and then has the
// exception raised again, outside.  When the last of these calls has ended, the other one is back, unless
// somebody has put a third in its place; that one may call ours, which passes on what it gets.
//
// The GIL guards all of it.  Nothing here runs Python code except the hook.
#ifndef PYCONC_LOST_EXCEPTION_H
#define PYCONC_LOST_EXCEPTION_H

#include "state.h"

// The end of one more call was asked for; it has ended.  Without memory its exception may be lost.
void lost_exception_watch(module_state *state);
void lost_exception_unwatch(module_state *state);

// In the child of a fork, where none of these calls runs.
void lost_exception_after_fork(module_state *state);

#endif
