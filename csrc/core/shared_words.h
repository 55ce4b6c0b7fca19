// shared_words: memory that a process writes while others look at it without a lock, see shared_look.h.
//
// All of it is in whole words, at multiples of 8, so that nobody reads what is half written.  Each store
// releases, so whoever sees it sees all that its thread has stored before.  On x86-64 they are plain stores.
// No Python.
#ifndef PYCONC_SHARED_WORDS_H
#define PYCONC_SHARED_WORDS_H

#include <stdatomic.h>
#include <stdint.h>
#include <string.h>

// The holder of the lock writes, and may read them as what they are.
static inline void
shared_word_write(void *to, uint64_t word)
{
    // R48: pairs with A48 in shared_word_read(): the version that was counted before it is there.
    atomic_store_explicit((_Atomic uint64_t *)to, word, memory_order_release);
}

static inline uint64_t
shared_word_read(const void *from)
{
    // A48: pairs with R48 in shared_word_write().
    return atomic_load_explicit((const _Atomic uint64_t *)from, memory_order_acquire);
}

// Writes so many bytes, and zeros up to the end of the last word.
static inline void
shared_words_write(void *to, const void *from, uint64_t bytes)
{
    uint64_t word, done = 0;
    for (; done + 8 <= bytes; done += 8) {
        memcpy(&word, (const char *)from + done, 8);
        shared_word_write((char *)to + done, word);
    }
    if (done < bytes) {
        word = 0;
        memcpy(&word, (const char *)from + done, bytes - done);
        shared_word_write((char *)to + done, word);
    }
}

// Reads so many bytes.
static inline void
shared_words_read(void *to, const void *from, uint64_t bytes)
{
    uint64_t word, done = 0;
    for (; done + 8 <= bytes; done += 8) {
        word = shared_word_read((const char *)from + done);
        memcpy((char *)to + done, &word, 8);
    }
    if (done < bytes) {
        word = shared_word_read((const char *)from + done);
        memcpy((char *)to + done, &word, bytes - done);
    }
}

// Zeros, up to the end of the last word.
static inline void
shared_words_clear(void *to, uint64_t bytes)
{
    for (uint64_t done = 0; done < bytes; done += 8) {
        shared_word_write((char *)to + done, 0);
    }
}

#endif
