// chunk_map: ProcessPoolExecutor.map(): many calls in a message, as many as their time warrants.
//
//     iterables --> unsent --> chunks ==> the queue, a worker ==> settled --> results
//      consumer        consumer or                  consumer or               consumer
//                      result handler               result handler
//
// Calls go out in *chunks*.  The size of a chunk follows the time that calls have taken so far, so that it
// keeps a worker busy for about TARGET_NS: hundreds of short calls, or one long call.  A few chunks are under
// way for each worker; when one has ended, the next is sent.  Towards the end chunks shrink, so that all
// workers end together.  Calls may turn out longer than those before: a worker returns a chunk that has
// taken long with what it has done, and the rest is sent anew.  When nothing is left to send and a worker is
// idle, the second half of what another has yet to do is taken from it.
//
// Two objects share the work.  A *map feed* owns what is read and not sent, and the chunks in the order of
// their items.  *Map results* are the iterator that map() returns; the thread that iterates, the consumer,
// alone reads the iterables, as many items ahead as `buffersize` allows.  What they raise comes out of the
// iterator, after the results of the items before it.  The feed outlives the iterator while chunks are under
// way: their jobs keep it.
//
// The queue tells of the end of each chunk's job by its followup, which runs after the delivery and outside
// of it, in the result handler's thread or in the consumer's, whoever is first; it settles the chunk: learns
// from its time, sends its rest, and sends more.  So workers are fed while the consumer is elsewhere, and no
// Python code that a signal handler could interrupt keeps the books.
//
// The feed's keeper keeps the queue open while calls are unsent or under way.
//
// Everything is guarded by the GIL.  To pack items, to read them and to free them may run any code and let
// other threads run; every function here leaves its structures in order before it does any of that.
#ifndef PYCONC_CHUNK_MAP_H
#define PYCONC_CHUNK_MAP_H

#include "keeper.h"
#include "process_submit.h"

extern PyType_Spec map_feed_spec;
extern PyType_Spec map_results_spec;

#endif
