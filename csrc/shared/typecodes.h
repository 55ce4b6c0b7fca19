// typecodes: what pyconc.shared's numbers and arrays hold, by one letter as the modules array and struct
// have it.
//
//     b B h H i I l L q Q    integers of the size that C gives them; too large ones lose what is above it
//     f d                    floats
//     ?                      a bool
//     c                      a byte, as bytes
//
// A value goes through 64 bits: an integer's own, or those of a double.
#ifndef PYCONC_TYPECODES_H
#define PYCONC_TYPECODES_H

#include "base/compat.h"

#include <stdint.h>

// Bytes in memory; 0: there is no such code.
size_t typecode_size(char code);

static inline bool
typecode_is_float(char code)
{
    return code == 'd' || code == 'f';
}

// What a float's bits say.
static inline double
typecode_double(char code, uint64_t bits)
{
    double number;
    memcpy(&number, &bits, sizeof(number));
    return code == 'f' ? (double)(float)number : number;
}

// False with an exception: the value is of another type.
bool typecode_bits(char code, PyObject *value, uint64_t *bits);

// A new reference, or NULL with an exception.  Bits above the code's size do not count.
PyObject *typecode_value(char code, uint64_t bits);

#endif
