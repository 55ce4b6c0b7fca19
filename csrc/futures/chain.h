// chain: an iterator over the items of lists that a generator yields; map() returns its results by it.
//
// It does what itertools.chain.from_iterable() would do if that could be closed, and dropped each item as it
// is taken: the chain owns the lists from when they are yielded, and empties them.  What the generator
// raises, also because two threads want the next list at once, goes to the thread that asked for an item.
#ifndef PYCONC_CHAIN_H
#define PYCONC_CHAIN_H

#include "base/state.h"

extern PyType_Spec chain_spec;

#endif
