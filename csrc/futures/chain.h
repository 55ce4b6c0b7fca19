// chain: an iterator over the items of lists that a generator yields; map() hands its results out by it.
//
// It is what itertools.chain.from_iterable() would be if that could be closed, and let go of each item as
// it is taken: the lists are the chain's own from when they are yielded, and are emptied.  What the
// generator raises, also because two threads want the next list at once, goes to who asked for an item.
#ifndef PYCONC_CHAIN_H
#define PYCONC_CHAIN_H

#include "base/state.h"

extern PyType_Spec chain_spec;

#endif
