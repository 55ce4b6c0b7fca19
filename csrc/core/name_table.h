// name_table: numbers for names, 0, 1, 2, ... in the order in which they were first asked for.
//
// For whoever notes down the same few names a million times: a number takes four bytes.  The caller guards
// the table.  No Python.
#ifndef PYCONC_NAME_TABLE_H
#define PYCONC_NAME_TABLE_H

#include <stddef.h>
#include <stdint.h>

// The number of a name for which there is no memory, and that of none.
#define NAME_TABLE_NONE UINT32_MAX

typedef struct name_table_entry {
    char *text;  // ends with a zero; owned
    size_t bytes;
    uint64_t hash;
} name_table_entry;

// Zeros are an empty table.
typedef struct name_table {
    name_table_entry *entries;  // by number
    uint32_t count, room;
    uint32_t *numbers;     // by hash, open addressing: a number and 1; 0: nobody's
    uint32_t place_count;  // a power of two, at least twice as many as names; or 0
} name_table;

// The number of a name of so many bytes, which may contain any but zero.
uint32_t name_table_number(name_table *table, const char *text, size_t bytes);

// Frees all names; the table is empty afterwards.
void name_table_fini(name_table *table);

#endif
