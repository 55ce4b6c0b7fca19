#include "call_name.h"

#include <string.h>

void
call_name_write(call_name *self, const char *name, size_t bytes)
{
    uint64_t words[CALL_NAME_WORDS];
    bytes = bytes < sizeof(words) ? bytes : sizeof(words);
    size_t count = (bytes + 7) / 8 + (bytes < sizeof(words) && bytes % 8 == 0);
    words[count - 1] = 0;
    memcpy(words, name, bytes);
    // Both relaxed: only this thread writes it, and the words below order the second.
    uint32_t version = atomic_load_explicit(&self->version, memory_order_relaxed);
    atomic_store_explicit(&self->version, version + 1, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        // Release: whoever sees part of the name sees that it changes.
        atomic_store_explicit(&self->words[i], words[i], memory_order_release);
    }
    // Release: whoever sees this version sees the whole name.
    atomic_store_explicit(&self->version, version + 2, memory_order_release);
}

bool
call_name_read(const call_name *copy, const call_name *later, char name[CALL_NAME_BYTES + 1])
{
    // Relaxed, both: they are copies.
    uint32_t version = atomic_load_explicit(&copy->version, memory_order_relaxed);
    memcpy(name, copy->words, CALL_NAME_BYTES);
    name[CALL_NAME_BYTES] = '\0';
    return version != 0 && version % 2 == 0
           && version == atomic_load_explicit(&later->version, memory_order_relaxed);
}
