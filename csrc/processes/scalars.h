// plain: small values that need no pickle.
//
// Most calls and outcomes are a few numbers and short strings.  Their pickles would cost more than all the
// rest of their way; here they are a tag and their bytes:
//
//     n t f               None, True, False
//     i, 8 bytes          an int of 64 bits
//     d, 8 bytes          a float
//     s, size, bytes      an ASCII str
//     b, size, bytes      a bytes
//     (, count, items     a tuple of such values
//
// Sizes and counts are one byte.  Only these very types are plain, no subclasses, and only what cannot
// change: two references to one list are that too where they are unpickled, and would not be here.
#ifndef PYCONC_SCALARS_H
#define PYCONC_SCALARS_H

#include "base/compat.h"

#include <stddef.h>

// What is longer is pickled.
#define SCALARS_BYTES_MAX 128

// Writes a value to at most `room` bytes.  Returns how many it took; 0: it is not plain, or too long.
size_t scalars_write(PyObject *value, unsigned char *bytes, size_t room);

// Makes the value of exactly these bytes.  NULL with an exception, ValueError if that is not what they are.
PyObject *scalars_read(const unsigned char *bytes, size_t size);

#endif
