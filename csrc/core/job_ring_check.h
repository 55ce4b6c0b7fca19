// job_ring_check: what the parent looks after: stopped workers, and stray writes.
//
// *Stopped workers.*  A worker that was notified, or that spins, may be stopped, or get no CPU.  While a slot
// is ready the parent looks again after a while: it stops counting on such workers and notifies another.
//
// *Stray writes.*  Any worker may write anywhere in the ring by mistake.  The parent reads back nothing that
// it wrote: it keeps its own copy, and job_ring_is_intact() compares.  States have values that no stray write
// makes.  A worker that is about to sleep looks at the words that would wake it, and returns JOB_RING_DAMAGED
// instead.  The parent looks before it sleeps and after a worker's death.  A damaged ring is of no use: the
// parent ends every worker, and lays the ring out anew.
//
// With the parent's lock.  No Python.
#ifndef PYCONC_JOB_RING_CHECK_H
#define PYCONC_JOB_RING_CHECK_H

#include "job_ring.h"

// Whether every shared word has a value that the parent or a worker writes on purpose.  A worker runs code
// that is not pyconc's, such as an extension with a wild pointer, and may write anywhere.  Takes time in
// proportion to the slots in use.  A head that a stray write has moved beyond a ready slot is moved back.
bool job_ring_is_intact(job_ring *ring);

// For when some slot has been ready for a while: workers that were notified, or spin, have not come.  The
// parent counts on them no longer, and notifies another.  True if that one is on its way; if false, no worker
// sleeps while a slot is ready.  A worker that is only slow loses nothing.
bool job_ring_notify_others(job_ring *ring);

#endif
