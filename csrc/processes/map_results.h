// map_results: the iterator that ProcessPoolExecutor.map() returns, on top of a map feed.
//
// The thread that iterates, the consumer, alone reads the iterables, as many items ahead as `buffersize`
// allows.  What they raise comes out of the iterator, after the results of the items before it.
//
// Everything is guarded by the GIL, as in map_feed.h.
#ifndef PYCONC_MAP_RESULTS_H
#define PYCONC_MAP_RESULTS_H

#include "base/compat.h"

extern PyType_Spec map_results_spec;

#endif
