// shared_dict: a hash table, in the order of insertion, in a cell of a shared heap.
//
// It is a shared_run, see there, with this for a table:
//
//     table    bounds: first, end | capacity | cells | count, version | slots... | index...
//     slot     hash | key | shown | value         a key of 0: what was there is gone
//     index    cells of 4 bytes: 0, or a slot's number + 1, found from its hash on, one after the other
//
// The slots from first to end - 1 are all that is true.  A change publishes one word of them: a value, for
// another value; the bounds, for what came at the end or went at an end; a key of 0, for what went in the
// middle; else a new table.  Count and index only follow from the slots.  They are brought up to date after
// that, and then marked with the version of the run of which they are.  A process that finds another version
// there knows that somebody died in between, and makes both anew.
//
//     a process that dies                    leaves
//     before the word is published           the old, with a mark that is old
//     after that, or in making anew          the new, with a mark that is old
//
// Equal keys have equal bytes, which is for the caller to see to.  `shown` is what the caller wants to have
// back for a key, where that is something else.
//
// Of shared_run.h a user calls what is without the lock, bytes and version.  Everything here is with the
// lock, except for looks.  No Python.
#ifndef PYCONC_SHARED_DICT_H
#define PYCONC_SHARED_DICT_H

#include "shared_look.h"

#define SHARED_DICT_MAX (UINT32_C(1) << 29)
#define SHARED_DICT_NOWHERE UINT32_MAX

// What a slot has, and what comes in: `shown` with neither bytes nor a word if the key shows itself.
enum {
    SHARED_DICT_KEY,
    SHARED_DICT_SHOWN,
    SHARED_DICT_VALUE,
    SHARED_DICT_PARTS
};

extern const shared_run_kind shared_dict_kind;

uint32_t shared_dict_count(const shared_run *dict);

// Where a key is, until the next change; or SHARED_DICT_NOWHERE.
uint32_t shared_dict_find(const shared_run *dict, const shared_item *key);

// The first place from `place` on where there is something, and the last of all; or SHARED_DICT_NOWHERE.
uint32_t shared_dict_next(const shared_run *dict, uint32_t place);
uint32_t shared_dict_last(const shared_run *dict);

// A part of the entry at a place.  An entry without a shown part of its own is shown by its key.
shared_item shared_dict_get(const shared_run *dict, uint32_t place, int part);

// Without the lock: whether the key is there, and copies its value unless `value` is NULL; and how many there
// are.  -1: whoever wants to know takes the lock.
int shared_dict_look(shared_run *dict, const shared_item *key, shared_seen *value);
int64_t shared_dict_look_count(shared_run *dict);

// All below: 0, or SHARED_HEAP_FULL, or a status of robust_lock, with the table as it was.

// Sets the value of a key that is there, or adds all parts at the end.
int shared_dict_set(shared_run *dict, const shared_item parts[SHARED_DICT_PARTS]);

// Does that for many, in one step: `parts` has SHARED_DICT_PARTS times `count` items.
int shared_dict_update(shared_run *dict, const shared_item *parts, uint32_t count);

int shared_dict_remove(shared_run *dict, uint32_t place);
int shared_dict_clear(shared_run *dict);

#endif
