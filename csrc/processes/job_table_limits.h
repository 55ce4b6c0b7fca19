// job_table_limits: the table's timer, and tasks whose time is over.
//
// Tasks with a deadline are in the heap of limits while they are WAITING or IN_SLOT.  A timeout counts from
// when a worker has begun, of which the table does not hear: it looks, before a call that begins now could
// have had its time, and puts those that have begun into the heap.
#ifndef PYCONC_JOB_TABLE_LIMITS_H
#define PYCONC_JOB_TABLE_LIMITS_H

#include "job_table.h"

// The table's timer, a timerfd, borrowed; -1: there is none any more.
void job_table_use_timer(job_table *table, int timer_fd);

// It has fired.  If something has been ready for long, and some worker sleeps, that one is notified.  The
// tasks whose time is over are to end, see job_table_pop_stop(), or are among the withdrawn.  *announces: the
// result handler has yet to be told of those, which is up to the caller.  *asks: the supervisor has something
// to do about what is to end, or about the ring.
void job_table_on_timer(job_table *table, bool *announces, bool *asks);

#endif
