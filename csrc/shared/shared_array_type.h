// shared_array_type: memory of a fixed size, see core/shared_block.h, as items of one typecode:
// pyconc.shared.Array, as far as it is not written in Python, and what share() lays things into.
//
// An item is read and written by one load or store, so nobody sees half of one; many are not one step.  There
// is no lock: a program that needs several steps to be one has the cell's.  It exports its memory as a
// buffer; an export keeps the object, the object the cell, and the cell the memory.
#ifndef PYCONC_SHARED_ARRAY_TYPE_H
#define PYCONC_SHARED_ARRAY_TYPE_H

#include "base/compat.h"

// Derives from the type of shared_cell.h.
extern PyType_Spec shared_array_spec;

#endif
