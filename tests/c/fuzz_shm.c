// A process checks what another wrote before it uses that: here the other wrote anything at all.
//
// Each round makes a region, a ring and some blocks, writes over a few words of what is shared, and
// then does what a process does with it.  Nothing may be touched outside, nothing may go on for ever,
// and what is handed out must be sound.
//
//     fuzz_shm [rounds [seed]]        or FUZZ_SHM_ROUNDS and FUZZ_SEED
#define _GNU_SOURCE
#include "check_shm.h"

#include <sys/mman.h>

#include "core/shm_arena.h"
#include "core/job_ring_parent.h"
#include "core/job_ring_worker.h"

#define MOST_BYTES (UINT64_C(1) << 17)

// Over all rounds: what was refused, and what was not.
static uint64_t joined, not_joined, collected, corrupt_ones, found, not_found, attached, not_attached;

// A number that is likely to hurt.
static uint64_t
number(uint64_t *seed)
{
    uint64_t one = check_random(seed);
    switch (check_random(seed) % 6) {
    case 0:
        return one;
    case 1:
        return one % 16;
    case 2:
        return UINT64_C(1) << one % 64;
    case 3:
        return UINT64_MAX - one % 128;
    case 4:
        return one % 64 * SHM_PAGE;
    default:
        return one % UINT32_MAX;
    }
}

// Writes over a word of 32 or 64 bits, or a bit of it.
static void
spoil(unsigned char *memory, uint64_t bytes, uint64_t *seed)
{
    uint64_t size = check_chance(seed, 2) ? 4 : 8;
    uint64_t at = check_random(seed) % (bytes / size) * size;
    uint64_t value = 0;
    memcpy(&value, memory + at, size);
    value = check_chance(seed, 2) ? value ^ UINT64_C(1) << check_random(seed) % (8 * size) : number(seed);
    memcpy(memory + at, &value, size);
}

static void
spoil_some(unsigned char *memory, uint64_t bytes, uint64_t *seed)
{
    for (uint64_t i = 1 + check_random(seed) % 8; i > 0; i--) {
        // The beginning is where most of what is read lies.
        spoil(memory, check_chance(seed, 2) && bytes > 512 ? 512 : bytes, seed);
    }
}

// ---- the ring ----

static void
check_inside(const void *part, uint64_t size, unsigned char *memory, uint64_t bytes)
{
    const unsigned char *start = part;
    CHECK(start >= memory && size <= bytes && start <= memory + (bytes - size));
}

static void
check_slot(job_ring *ring, job_slot *slot)
{
    CHECK(slot >= ring->slots && slot < ring->slots + ring->slot_count);
    CHECK_EQ((uint64_t)((unsigned char *)slot - (unsigned char *)ring->slots) % JOB_SLOT_BYTES, 0);
}

static void
work_on(job_ring *ring, uint64_t *seed)
{
    if (ring->worker_count == 0) {
        return;
    }
    uint32_t worker = (uint32_t)(check_random(seed) % ring->worker_count);
    // A ready slot has a position in the submission ring, so there are no more of them than positions.
    for (uint32_t i = 0; i < 4; i++) {
        job_slot *slot = job_ring_claim(ring, worker);
        if (slot != NULL) {
            check_slot(ring, slot);
            CHECK(job_ring_is_taken(slot));
            job_slot_next(slot);
            job_ring_complete(ring, worker, slot);
        }
    }
}

static void
fuzz_join(unsigned char *memory, uint64_t bytes, uint64_t *seed)
{
    job_ring ring;
    uint64_t claimed = check_chance(seed, 8) ? check_random(seed) % bytes : bytes;
    if (job_ring_attach(&ring, memory, claimed, -1) != SHM_OK) {
        not_joined++;
        return;
    }
    joined++;
    CHECK(ring.slot_count > 0 && (ring.slot_count & (ring.slot_count - 1)) == 0);
    check_inside(ring.states, (uint64_t)ring.worker_count * 4, memory, claimed);
    check_inside(ring.submissions, (uint64_t)ring.slot_count * 8, memory, claimed);
    check_inside(ring.completions, (uint64_t)ring.worker_count * ring.slot_count * 4, memory, claimed);
    check_inside(ring.slots, (uint64_t)ring.slot_count * JOB_SLOT_BYTES, memory, claimed);
    work_on(&ring, seed);
    job_ring_fini(&ring);
}

static void
check_free_slots(job_ring *ring)
{
    bool is_free[64] = {false};
    CHECK(ring->free_count <= ring->slot_count && ring->slot_count <= 64);
    for (uint32_t i = 0; i < ring->free_count; i++) {
        CHECK(ring->free_slots[i] < ring->slot_count);
        CHECK(!is_free[ring->free_slots[i]]);
        is_free[ring->free_slots[i]] = true;
    }
}

static void
act_as_parent(job_ring *ring, uint64_t *seed)
{
    uint32_t worker = (uint32_t)(check_random(seed) % ring->worker_count);
    job_slot *slot;
    bool corrupt = false;
    while ((slot = job_ring_pop_completion(ring, worker, &corrupt)) != NULL) {
        check_slot(ring, slot);
        job_ring_free(ring, slot);
        collected++;
    }
    corrupt_ones += corrupt;
    if ((slot = job_ring_alloc(ring)) != NULL) {
        check_slot(ring, slot);
        job_slot_set_range(slot, 5);
        job_ring_push(ring, slot);
        if (check_chance(seed, 2)) {
            CHECK(job_ring_withdraw(ring, slot));
            job_ring_free(ring, slot);
        }
    }
    job_slot_split(&ring->slots[check_random(seed) % ring->slot_count], (uint32_t)number(seed));
    job_ring_has_ready(ring);
    job_ring_notify(ring);
    if (check_chance(seed, 4)) {
        while ((slot = job_ring_reap(ring, worker)) != NULL) {
            check_slot(ring, slot);
            job_ring_free(ring, slot);
        }
    }
    check_free_slots(ring);
}

static void
fuzz_ring(unsigned char *memory, uint64_t *seed)
{
    job_ring ring;
    uint32_t slots = UINT32_C(1) << check_random(seed) % 7;
    uint32_t workers = 1 + (uint32_t)(check_random(seed) % 5);
    uint64_t bytes = job_ring_size(slots, workers);
    CHECK(bytes <= MOST_BYTES);
    memset(memory, 0, bytes);
    CHECK_EQ(job_ring_init(&ring, memory, slots, workers, -1), SHM_OK);
    for (int i = 0; i < 8; i++) {
        act_as_parent(&ring, seed);
        work_on(&ring, seed);
        if (check_chance(seed, 2)) {
            spoil_some(memory, bytes, seed);
        }
    }
    job_ring_fini(&ring);
    fuzz_join(memory, bytes, seed);
}

// ---- regions and arenas ----

// Whatever is found can be touched, all of it.
static void
use_block(shm_arena *arena, uint64_t name, uint64_t bytes)
{
    shm_block *block = NULL;
    if (shm_arena_find(arena, name, bytes, &block) != SHM_OK) {
        not_found++;
        return;
    }
    found++;
    CHECK(block->capacity >= bytes);
    shm_block_take_over(block, arena->me);
    shm_block_open_view(block);
    block->payload[0] = block->payload[block->capacity - 1] = 1;
    shm_block_release(block, arena->me);
}

static void
fuzz_arena(shm_region *region, uint64_t *seed)
{
    shm_arena parent, worker;
    shm_block *blocks[8];
    CHECK_EQ(shm_arena_open(&parent, region, SHM_PARENT), SHM_OK);
    CHECK_EQ(shm_arena_open(&worker, region, SHM_WORKER(0)), SHM_OK);
    for (int i = 0; i < 8; i++) {
        uint64_t bytes = check_random(seed) % ((i % 2 == 0 ? 6 : 40) * SHM_PAGE);
        CHECK_EQ(shm_arena_claim(&worker, bytes, &blocks[i]), SHM_OK);
        if (check_chance(seed, 2)) {
            shm_block_release(blocks[i], worker.me);
        }
    }
    uint64_t name = shm_block_name(blocks[check_random(seed) % 8]);
    for (int i = 0; i < 4; i++) {
        spoil_some((unsigned char *)blocks[check_random(seed) % 8]->header, sizeof(shm_block_header), seed);
        use_block(&parent, name, number(seed));
        use_block(&parent, name, 0);
        use_block(&parent, name ^ UINT64_C(1) << check_random(seed) % 42, 0);
        use_block(&parent, number(seed), 0);
        if (check_chance(seed, 4)) {
            shm_arena_trim(check_chance(seed, 2) ? &parent : &worker);
        }
    }
    // Each process goes on with what it has.
    for (int i = 0; i < 8; i++) {
        shm_block *block;
        shm_arena *arena = check_chance(seed, 2) ? &parent : &worker;
        uint64_t bytes = check_random(seed) % (40 * SHM_PAGE);
        CHECK_EQ(shm_arena_claim(arena, bytes, &block), SHM_OK);
        memset(block->payload, 0xff, bytes);
    }
    shm_arena_close(&worker, false);
    shm_arena_free_held(&parent, SHM_WORKER(0));
    shm_arena_close(&parent, true);
}

static void
fuzz_attach(shm_region *region, uint64_t *seed)
{
    shm_region other;
    for (uint64_t i = check_random(seed) % 4; i > 0; i--) {
        spoil(region->head - SHM_PAGE, 24, seed);
    }
    int fd = dup(region->file.fd);
    if (shm_region_attach(&other, fd) != SHM_OK) {
        not_attached++;
        close(fd);
        return;
    }
    attached++;
    // The head is mapped, all of it.
    other.head[0] = 1;
    other.head[other.head_bytes == 0 ? 0 : other.head_bytes - 1] = 1;
    shm_region_close(&other);
}

int
main(int argc, char **argv)
{
    uint64_t rounds = check_number(argc, argv, 1, "FUZZ_SHM_ROUNDS", 50000);
    uint64_t seed = check_number(argc, argv, 2, "FUZZ_SEED", 1);
    printf("fuzz_shm %llu %llu\n", (unsigned long long)rounds, (unsigned long long)seed);
    fflush(stdout);
    check_guard("fuzz_shm");
    unsigned char *memory = aligned_alloc(64, MOST_BYTES);
    CHECK(memory != NULL);
    for (uint64_t round = 0; round < rounds; round++) {
        if (round % 1000 == 0) {
            check_guard("fuzz_shm");
        }
        fuzz_ring(memory, &seed);
        if (round % 10 == 0) {
            shm_region region;
            check_create(&region);
            fuzz_arena(&region, &seed);
            fuzz_attach(&region, &seed);
            shm_region_close(&region);
        }
    }
    free(memory);
    printf("ok: %llu of %llu rings joined, %llu slots collected and %llu corrupt, "
           "%llu of %llu blocks found, %llu of %llu regions attached\n",
           (unsigned long long)joined, (unsigned long long)(joined + not_joined),
           (unsigned long long)collected, (unsigned long long)corrupt_ones, (unsigned long long)found,
           (unsigned long long)(found + not_found), (unsigned long long)attached,
           (unsigned long long)(attached + not_attached));
    return EXIT_SUCCESS;
}
