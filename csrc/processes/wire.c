#include "wire.h"

size_t
wire_length(const unsigned char *message)
{
    const wire *head = (const wire *)message;
    if (head->kind < WIRE_CALL || head->kind > WIRE_EXPIRED || head->callable_bytes > head->stream_bytes
        || (head->block == 0 && (head->stream_bytes > WIRE_INLINE_BYTES || head->buffer_count != 0))) {
        return 0;
    }
    return sizeof(wire) + (head->block == 0 ? head->stream_bytes : 0);
}

shm_block *
wire_block(RegionObject *region, const wire *message)
{
    uint64_t sizes = (uint64_t)message->buffer_count * sizeof(uint64_t);
    if (message->block == 0 || message->stream_bytes > UINT64_MAX - sizes) {
        return NULL;
    }
    shm_block *block;
    int rc = shm_arena_find(&region->arena, message->block, sizes + message->stream_bytes, &block);
    return rc == SHM_OK ? block : NULL;
}
