#include "name_table.h"

#include <stdlib.h>
#include <string.h>

#define FIRST_ROOM 32

// FNV-1a.
static uint64_t
hash_of(const char *text, size_t bytes)
{
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (size_t i = 0; i < bytes; i++) {
        hash = (hash ^ (unsigned char)text[i]) * UINT64_C(0x100000001b3);
    }
    return hash;
}

// Where the name's number is, or would be.
static uint32_t *
find_place(const name_table *table, uint64_t hash, const char *text, size_t bytes)
{
    uint32_t mask = table->place_count - 1;
    for (uint32_t i = (uint32_t)hash & mask;; i = (i + 1) & mask) {
        if (table->numbers[i] == 0) {
            return &table->numbers[i];
        }
        const name_table_entry *entry = &table->entries[table->numbers[i] - 1];
        if (entry->hash == hash && entry->bytes == bytes && memcmp(entry->text, text, bytes) == 0) {
            return &table->numbers[i];
        }
    }
}

// Makes room for twice as many names.  0, or -1: there is no memory, and the table is what it was.
static int
grow(name_table *table)
{
    uint32_t room = table->room == 0 ? FIRST_ROOM : 2 * table->room;
    uint32_t *numbers = room > UINT32_MAX / 4 ? NULL : calloc(2 * (size_t)room, sizeof(*numbers));
    name_table_entry *entries =
        numbers == NULL ? NULL : realloc(table->entries, room * sizeof(*entries));
    if (entries == NULL) {
        free(numbers);
        return -1;
    }
    free(table->numbers);
    table->entries = entries;
    table->room = room;
    table->numbers = numbers;
    table->place_count = 2 * room;
    for (uint32_t i = 0; i < table->count; i++) {
        *find_place(table, entries[i].hash, entries[i].text, entries[i].bytes) = i + 1;
    }
    return 0;
}

uint32_t
name_table_number(name_table *table, const char *text, size_t bytes)
{
    uint64_t hash = hash_of(text, bytes);
    if (table->count > 0) {
        uint32_t known = *find_place(table, hash, text, bytes);
        if (known != 0) {
            return known - 1;
        }
    }
    if (table->count == table->room && grow(table) < 0) {
        return NAME_TABLE_NONE;
    }
    char *copy = malloc(bytes + 1);
    if (copy == NULL) {
        return NAME_TABLE_NONE;
    }
    memcpy(copy, text, bytes);
    copy[bytes] = '\0';
    table->entries[table->count] = (name_table_entry){.text = copy, .bytes = bytes, .hash = hash};
    *find_place(table, hash, text, bytes) = table->count + 1;
    return table->count++;
}

void
name_table_fini(name_table *table)
{
    for (uint32_t i = 0; i < table->count; i++) {
        free(table->entries[i].text);
    }
    free(table->entries);
    free(table->numbers);
    *table = (name_table){0};
}
