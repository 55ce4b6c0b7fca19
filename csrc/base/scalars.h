// scalars: small values that need no pickle.
//
// Most calls and outcomes are a few numbers and short strings.  A pickle of them costs more than the rest of
// their way.  Here such a value is a tag and its bytes:
//
//     n t f               None, True, False
//     i, 8 bytes          an int of 64 bits
//     d, 8 bytes          a float
//     s, size, bytes      an ASCII str
//     b, size, bytes      a bytes
//     (, count, items     a tuple of such values
//
// Sizes and counts are one byte.  Only values of exactly these types are scalars, not those of subclasses,
// and none that can change: two references to one list are still one list after pickling, and would not be
// here.
//
// Nanoseconds to write a value and read it again, called from Python, the best of 18 interleaved rounds of
// 20,000.  Besides, marshal takes what can change, and trusts the bytes that another process wrote.
//
//                           Python 3.13                 Python 3.15
//                     here  marshal  pickle       here  marshal  pickle
//     12345             43      130     674         37      104     242
//     1.5               38      129     763         35      108     241
//     "hello world"     62      142     934         53      111     498
//     ("abc", 7)        85      353   1,165         63      174     549
#ifndef PYCONC_SCALARS_H
#define PYCONC_SCALARS_H

#include "compat.h"

#include <stddef.h>

// A value that takes more bytes is pickled.
#define SCALARS_BYTES_MAX 128

// Writes a value to at most `room` bytes.  Returns how many it took; 0: it is no scalar, or too long.
size_t scalars_write(PyObject *value, unsigned char *bytes, size_t room);

// Makes the value of exactly these bytes.  NULL with an exception, ValueError if that is not what they are.
PyObject *scalars_read(const unsigned char *bytes, size_t size);

#endif
