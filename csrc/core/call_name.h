// call_name: what the call of a worker is named, where others can see it.
//
// One thread writes it, and whoever looks has two copies of the memory in which it stands, see
// versioned_words.h.  No Python.
#ifndef PYCONC_CALL_NAME_H
#define PYCONC_CALL_NAME_H

#include "versioned_words.h"

#define CALL_NAME_WORDS 20
#define CALL_NAME_BYTES (CALL_NAME_WORDS * sizeof(uint64_t))

// Zeros: there is none.
typedef struct call_name {
    _Atomic uint32_t version;
    _Atomic uint64_t words[CALL_NAME_WORDS];  // UTF-8, as much of it as fits; behind it a zero
} call_name;

void call_name_write(call_name *self, const char *name, size_t bytes);

// Writes the name in a copy, and a zero, into `name`; false: it was being changed, or there is none.
// `later`: the same in the other copy.
bool call_name_read(const call_name *copy, const call_name *later, char name[CALL_NAME_BYTES + 1]);

#endif
