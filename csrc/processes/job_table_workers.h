// job_table_workers: workers that come and go, and what becomes of the tasks that no worker will end.
//
// A worker counts from when it is reserved or added, takes tasks from when it is admitted, and is reaped when
// its end has been seen.  A stray write of one may hit the ring: then nothing enters it, the queue's owner
// ends all workers, and when the last is reaped the table lays the ring out anew.  Jobs that no worker had
// taken go there; the others are lost.
#ifndef PYCONC_JOB_TABLE_WORKERS_H
#define PYCONC_JOB_TABLE_WORKERS_H

#include "job_table.h"

// One more worker counts, and is to be started, if tasks outnumber workers and there may be one more.
bool job_table_reserve_worker(job_table *table);
void job_table_add_workers(job_table *table, long change);

// The parent can see the end of this worker, which is that process: it may take tasks from here on.
// `pidfd`: borrowed until job_table_forget_pidfd(); where the system has none, whatever tells of its end.
void job_table_admit(job_table *table, uint32_t worker, uint32_t process, int pidfd);

// Whether this worker asks to be replaced, see job_ring.h.
bool job_table_wants_relief(job_table *table, uint32_t worker);

// Settles the affairs of a dead worker, whose number is then free; returns the tasks that it had taken and
// not finished, or NULL.  *progress: some worker has finished a task since a worker was last reaped.
list_node *job_table_reap(job_table *table, uint32_t worker, bool *progress);

// It is about to be closed, as the worker has ended.
void job_table_forget_pidfd(job_table *table, uint32_t worker);

// Has the workers leave when nothing is left for them to take.
void job_table_close(job_table *table);

// Takes every task that no worker has taken, in order; with `taken`, also those, whose workers are of no
// use any more.
list_node *job_table_evict(job_table *table, bool taken);

// Looks whether a worker's stray write has hit the ring, and nobody ends the workers for that yet.
bool job_table_is_damaged(job_table *table);

// The same.  True, once: the caller has every worker ended.
// When the last one is reaped, the ring is laid out anew; jobs that no worker had taken go there, the others
// are lost.
bool job_table_take_condemned(job_table *table);

// A worker has found the shared memory damaged: as if the table had.
void job_table_condemn(job_table *table);

#endif
