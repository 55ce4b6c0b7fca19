// versioned_words: a few words that change together, where others can see them.
//
// One thread at a time writes them, and whoever looks has copies of the memory in which they stand, and must
// expect anything there.  A version, which is odd while the words change, tells all of them from a mixture:
// who copies the memory twice, one copy after the other, knows that the words in the first are whole if both
// have the same even version.  0: nothing was written yet.  No Python.
#ifndef PYCONC_VERSIONED_WORDS_H
#define PYCONC_VERSIONED_WORDS_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

// Writes so many, those at the beginning.
static inline void
versioned_words_write(_Atomic uint32_t *version, _Atomic uint64_t *shown, const uint64_t *words, size_t count)
{
    // Both relaxed: only this thread writes it, and the words below order the second.
    uint32_t before = atomic_load_explicit(version, memory_order_relaxed);
    atomic_store_explicit(version, before + 1, memory_order_relaxed);
    for (size_t i = 0; i < count; i++) {
        // Release: whoever sees part of the words sees that they change.
        atomic_store_explicit(&shown[i], words[i], memory_order_release);
    }
    // Release: whoever sees this version sees all words.
    atomic_store_explicit(version, before + 2, memory_order_release);
}

// Whether the words in a copy are whole.  `later`: the version in the other copy.
static inline bool
versioned_words_are_whole(const _Atomic uint32_t *copy, const _Atomic uint32_t *later)
{
    // Relaxed, both: they are copies.
    uint32_t version = atomic_load_explicit(copy, memory_order_relaxed);
    return version != 0 && version % 2 == 0 && version == atomic_load_explicit(later, memory_order_relaxed);
}

#endif
