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
    versioned_words_write(&self->version, self->words, words, count);
}

bool
call_name_read(const call_name *copy, const call_name *later, char name[CALL_NAME_BYTES + 1])
{
    memcpy(name, copy->words, CALL_NAME_BYTES);
    name[CALL_NAME_BYTES] = '\0';
    return versioned_words_are_whole(&copy->version, &later->version);
}
