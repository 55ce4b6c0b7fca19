// process_delivery: how the outcome of a process executor's task reaches its destination.
//
//                        .--> result handler: all ----.                .--> followup
//     worker ==> table --+                            +--> unpacked --> delivered
//                        '--> helper: what it awaits -'
//
// The *result handler* is a thread that lives in process_delivery_collect().  It delivers what the table has
// collected, and sleeps when nothing is left: it reads how much workers have finished in all, delivers, and
// arms the ring's wakeup with that number; if a worker has finished more since, arming fails and the handler
// starts over.  Else the next worker that finishes something writes to the eventfd.  The handler that was
// woken first collects, so that the workers are fed, and only then waits for the GIL.
//
// A *helper* is any other thread that waits for an outcome: before it sleeps it spins for a short while and
// collects, which saves the result handler's sleep and two wakeups.  It delivers what it waits for itself,
// and that only if no callback and no other waiter hangs on it: so no code of the
// program runs in a thread that may hold its locks.  It leaves the rest to the result handler, and wakes
// that.
//
// A task is DELIVERING while a thread has it; unpacking and callbacks run Python code, which may fork: in the
// child the thread that delivers frees the task, and delivers nothing.  A signal handler that raises while a
// helper unpacks interrupts the helper alone: the task goes back to the table.  When a job has ended in
// whatever way, its followup is due; the result handler runs it after the delivery.
#ifndef PYCONC_PROCESS_DELIVERY_H
#define PYCONC_PROCESS_DELIVERY_H

#include "process_queue.h"

// A task of this queue for a destination, with no call yet; options: or NULL.  Borrows all.  NULL with an
// exception.
task *process_delivery_new_task(ProcessQueueObject *self, const call_options *options, PyObject *callable,
                                const destination *to);

// The exception that a function of pyconc._process.pickling makes of another; if that fails, why.  Never
// NULL.
PyObject *process_delivery_make_exception(const char *function, PyObject *about);

// In the result handler: delivers until it is called back to Python, or the queue is done, or inherited.
void process_delivery_collect(ProcessQueueObject *self);

// Ends tasks that were taken from the table, in this thread; as task_fail_all().
int process_delivery_fail(ProcessQueueObject *self, list_node *tasks, PyObject *make_error,
                          PyObject *message);

// Has the result handler end such tasks, each with what make_error(its callable, its name or None, for how
// many seconds it had run or None) returns, so that their callbacks do not hold up the supervisor.
void process_delivery_fail_later(ProcessQueueObject *self, list_node *tasks, PyObject *make_error);

#endif
