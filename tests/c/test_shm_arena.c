// Tests of core/shm_arena: how large blocks are, which process owns them, and what becomes of a dead one's.
//
// Parties are arenas of one process, each with a mapping of its own, so that an address of one means
// nothing to the other.  A death is an arena that is closed: its blocks stay what they are.
#define _GNU_SOURCE
#include "check_shm.h"

#include "core/shm_arena.h"

#define PAGE SHM_PAGE
#define MIB (UINT64_C(1) << 20)
#define LARGE (MIB - sizeof(shm_block_header))  // the payload of a block of 1 MiB
#define WORKERS 2

typedef struct party {
    shm_region region;
    shm_arena arena;
} party;

typedef struct parties {
    party parent;
    party workers[WORKERS];
} parties;

static void
begin(parties *all)
{
    CHECK_EQ(shm_region_create(&all->parent.region, PAGE, SHM_PARTIES(WORKERS)), SHM_OK);
    CHECK_EQ(shm_arena_open(&all->parent.arena, &all->parent.region, SHM_PARENT), SHM_OK);
    for (uint32_t i = 0; i < WORKERS; i++) {
        party *self = &all->workers[i];
        CHECK_EQ(shm_region_attach(&self->region, dup(all->parent.region.file.fd)), SHM_OK);
        CHECK_EQ(shm_arena_open(&self->arena, &self->region, SHM_WORKER(i)), SHM_OK);
    }
}

static void
end(parties *all)
{
    for (int i = 0; i < WORKERS; i++) {
        shm_arena_close(&all->workers[i].arena, false);
        shm_region_close(&all->workers[i].region);
    }
    shm_arena_close(&all->parent.arena, true);
    shm_region_close(&all->parent.region);
}

// The worker is dead: what it had written stays.
static void
die(parties *all, uint32_t worker)
{
    shm_arena_close(&all->workers[worker].arena, false);
}

static void
join(parties *all, uint32_t worker)
{
    party *self = &all->workers[worker];
    CHECK_EQ(shm_arena_open(&self->arena, &self->region, SHM_WORKER(worker)), SHM_OK);
}

static uint32_t
holder(shm_block *block)
{
    return shm_block_holder(block);
}

static shm_block *
claim(party *self, uint64_t bytes)
{
    shm_block *block = NULL;
    CHECK_EQ(shm_arena_claim(&self->arena, bytes, &block), SHM_OK);
    CHECK_EQ(block->owner, self->arena.me);
    CHECK_EQ(holder(block), self->arena.me);
    CHECK_EQ(atomic_load(&block->header->committed), 1);
    CHECK(block->capacity >= bytes);
    return block;
}

static void
release(party *self, shm_block *block)
{
    shm_block_release(block, self->arena.me);
}

// Another party's block, where this one has it.
static shm_block *
seen_by(party *self, shm_block *block)
{
    shm_block *mine = NULL;
    CHECK_EQ(shm_arena_find(&self->arena, shm_block_name(block), block->capacity, &mine), SHM_OK);
    CHECK(mine != block);
    CHECK_EQ(mine->offset, block->offset);
    CHECK_EQ(mine->capacity, block->capacity);
    return mine;
}

// The block goes to this party.
static shm_block *
take_over(party *self, shm_block *block)
{
    shm_block *mine = seen_by(self, block);
    shm_block_take_over(mine, self->arena.me);
    return mine;
}

static uint64_t
committed(party *self)
{
    uint64_t committed_bytes, held_bytes;
    shm_arena_count(&self->arena, &committed_bytes, &held_bytes);
    return committed_bytes;
}

static uint64_t
held(party *self)
{
    uint64_t committed_bytes, held_bytes;
    shm_arena_count(&self->arena, &committed_bytes, &held_bytes);
    return held_bytes;
}

// All memory is either the region's own or some block's, and the parties know about each.
static void
check_memory_is_accounted_for(parties *all)
{
    uint64_t sum = 2 * PAGE + committed(&all->parent);
    for (int i = 0; i < WORKERS; i++) {
        sum += all->workers[i].arena.classes == NULL ? 0 : committed(&all->workers[i]);
    }
    CHECK_EQ(check_memory(all->parent.region.file.fd), sum);
}

static void
fill(shm_block *block, unsigned char value)
{
    memset(block->payload, value, block->capacity);
}

// ---- sizes ----

static void
check_size(party *self, uint64_t bytes)
{
    shm_block *block = claim(self, bytes);
    uint64_t pages = (bytes + sizeof(shm_block_header) + PAGE - 1) / PAGE;
    uint64_t has = (block->capacity + sizeof(shm_block_header)) / PAGE;
    CHECK_EQ((block->capacity + sizeof(shm_block_header)) % PAGE, 0);
    CHECK(has >= pages);
    CHECK(4 * has <= 5 * pages);
    memset(block->payload, 1, block->capacity);
    release(self, block);
}

static void
there_is_room_and_at_most_a_quarter_more(void)
{
    parties all;
    begin(&all);
    for (uint64_t pages = 1; pages <= 600; pages++) {
        // The largest that fits so many pages, and the smallest that does not.
        check_size(&all.parent, pages * PAGE - sizeof(shm_block_header));
        check_size(&all.parent, pages * PAGE - sizeof(shm_block_header) + 1);
    }
    for (uint64_t bytes = 0; bytes <= 2 * PAGE; bytes += 61) {
        check_size(&all.parent, bytes);
    }
    for (uint64_t bytes = MIB; bytes <= 16 * MIB; bytes *= 2) {
        check_size(&all.parent, bytes - 1);
        check_size(&all.parent, bytes);
        check_size(&all.parent, bytes + 1);
    }
    end(&all);
}

static void
payloads_are_aligned(void)
{
    parties all;
    begin(&all);
    for (uint64_t bytes = 1; bytes < 10 * PAGE; bytes += 777) {
        shm_block *block = claim(&all.parent, bytes);
        CHECK_EQ(block->offset % PAGE, 0);
        CHECK_EQ((uintptr_t)block->payload % 64, 0);
    }
    end(&all);
}

static void
what_is_larger_than_everything_is_refused(void)
{
    parties all;
    shm_block *block = NULL;
    begin(&all);
    CHECK_EQ(shm_arena_claim(&all.parent.arena, UINT64_MAX, &block), SHM_NO_MEMORY);
    CHECK_EQ(shm_arena_claim(&all.parent.arena, UINT64_MAX - sizeof(shm_block_header), &block),
             SHM_NO_MEMORY);
    CHECK_EQ(shm_arena_claim(&all.parent.arena, all.parent.region.share_bytes, &block), SHM_NO_MEMORY);
    CHECK(block == NULL);
    check_memory_is_accounted_for(&all);
    claim(&all.parent, 1);
    end(&all);
}

// ---- claim and release ----

static void
a_block_has_one_holder_until_it_is_released(void)
{
    parties all;
    begin(&all);
    shm_block *one = claim(&all.parent, LARGE);
    shm_block *two = claim(&all.parent, LARGE);
    CHECK(one != two);
    fill(one, 1);
    fill(two, 2);
    CHECK(check_all(one->payload, one->capacity, 1));
    CHECK_EQ(held(&all.parent), 2 * MIB);
    release(&all.parent, one);
    CHECK_EQ(held(&all.parent), MIB);
    CHECK(claim(&all.parent, LARGE) == one);
    CHECK(claim(&all.parent, LARGE) != one);
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
a_warm_block_is_used_again_and_again(void)
{
    parties all;
    begin(&all);
    shm_block *other = claim(&all.parent, LARGE);
    shm_block *block = claim(&all.parent, LARGE);
    release(&all.parent, other);
    release(&all.parent, block);
    shm_block *first = claim(&all.parent, LARGE);
    for (int i = 0; i < 20; i++) {
        release(&all.parent, first);
        CHECK(claim(&all.parent, LARGE) == first);
    }
    end(&all);
}

static void
sizes_do_not_mix(void)
{
    parties all;
    begin(&all);
    shm_block *small = claim(&all.parent, 1);
    shm_block *large = claim(&all.parent, LARGE);
    release(&all.parent, small);
    release(&all.parent, large);
    CHECK(claim(&all.parent, 2 * PAGE) != small);
    CHECK(claim(&all.parent, LARGE) == large);
    CHECK(claim(&all.parent, PAGE - sizeof(shm_block_header)) == small);
    end(&all);
}

static void
a_free_block_is_found_among_many_that_are_held(void)
{
    parties all;
    shm_block *blocks[100];
    begin(&all);
    for (int i = 0; i < 100; i++) {
        blocks[i] = claim(&all.parent, 1);
    }
    release(&all.parent, blocks[50]);
    // Each search looks at a few and the next goes on from there; so many pass all of them.
    bool found = false;
    for (int i = 0; i < 100 && !found; i++) {
        found = claim(&all.parent, 1) == blocks[50];
    }
    CHECK(found);
    end(&all);
}

static void
a_block_goes_to_another_party_and_comes_back(void)
{
    parties all;
    party *worker = &all.workers[0];
    begin(&all);
    shm_block *block = claim(&all.parent, LARGE);
    fill(block, 5);
    shm_block *there = take_over(worker, block);
    CHECK(check_all(there->payload, LARGE, 5));
    // Whatever the sender does with it now, it is the receiver's.
    release(&all.parent, block);
    CHECK_EQ(holder(block), SHM_WORKER(0));
    CHECK(claim(&all.parent, LARGE) != block);
    release(worker, there);
    CHECK_EQ(holder(block), SHM_NOBODY);
    CHECK_EQ(block->owner, SHM_PARENT);
    bool again = false;
    for (int i = 0; i < 2 && !again; i++) {
        again = claim(&all.parent, LARGE) == block;
    }
    CHECK(again);
    end(&all);
}

static void
a_process_that_does_not_hold_a_block_cannot_release_it(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, 1);
    release(&all.workers[0], seen_by(&all.workers[0], block));
    CHECK_EQ(holder(block), SHM_PARENT);
    release(&all.parent, block);
    release(&all.parent, block);
    release(&all.workers[0], seen_by(&all.workers[0], block));
    CHECK_EQ(holder(block), SHM_NOBODY);
    end(&all);
}

static void
only_the_owner_uses_a_free_block_again(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, LARGE);
    release(&all.parent, block);
    CHECK(claim(&all.workers[0], LARGE)->offset != block->offset);
    CHECK(claim(&all.parent, LARGE) == block);
    end(&all);
}

static void
close_accepts_what_is_closed(void)
{
    shm_arena arena;
    parties all;
    memset(&arena, 0, sizeof(arena));
    shm_arena_close(&arena, true);
    begin(&all);
    shm_block *block = claim(&all.parent, 1);
    shm_block *there = take_over(&all.workers[0], block);
    shm_arena_close(&all.parent.arena, true);
    // A block that a process holds stays what it was.
    CHECK_EQ(holder(there), SHM_WORKER(0));
    shm_arena_close(&all.parent.arena, true);
    end(&all);
}

// ---- shortage and trimming ----

static void
be_short_of_address_space(void *arg)
{
    parties all;
    shm_block *block = NULL;
    (void)arg;
    begin(&all);
    shm_block *small = claim(&all.parent, 1);
    rlim_t before = check_limit(RLIMIT_AS, check_address_space() + 12 * MIB);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(shm_arena_claim(&all.parent.arena, 16 * MIB, &block), SHM_NO_MEMORY);
        CHECK(block == NULL);
        check_memory_is_accounted_for(&all);
    }
    // What is there already can be used.
    release(&all.parent, small);
    CHECK(claim(&all.parent, 1) == small);
    // What is mapped and not in use makes room: these are more than fit together.
    for (uint64_t bytes = 3 * MIB; bytes < 8 * MIB; bytes += MIB) {
        block = claim(&all.parent, bytes);
        fill(block, 1);
        shm_block_sent(block);
        shm_block *there = take_over(&all.workers[0], block);
        release(&all.workers[0], there);
    }
    check_limit(RLIMIT_AS, before);
    fill(claim(&all.parent, 16 * MIB), 1);
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
a_shortage_is_told_and_passes(void)
{
    check_in_child(be_short_of_address_space, NULL);
}

static void
a_block_that_cannot_be_mapped_goes_back(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, 64 * MIB), *there = NULL;
    rlim_t before = check_limit(RLIMIT_AS, check_address_space());
    int rc = shm_arena_find(&all.workers[0].arena, shm_block_name(block), 1, &there);
    check_limit(RLIMIT_AS, before);
    CHECK_EQ(rc, SHM_NO_MEMORY);
    CHECK_EQ(holder(block), SHM_NOBODY);
    end(&all);
}

static void
a_full_share_is_a_shortage(void)
{
    parties all;
    shm_block *block = NULL;
    rlim_t before = check_limit_files(64 * MIB);
    begin(&all);
    CHECK_EQ(all.parent.region.share_bytes, 16 * MIB);
    for (int i = 0; i < 16; i++) {
        fill(claim(&all.workers[1], LARGE), 1);
    }
    CHECK_EQ(shm_arena_claim(&all.workers[1].arena, LARGE, &block), SHM_NO_MEMORY);
    fill(claim(&all.parent, LARGE), 1);
    check_limit_files(before);
    end(&all);
}

static void
claim_some(party *self, uint64_t bytes, shm_block **blocks, int count)
{
    for (int i = 0; i < count; i++) {
        blocks[i] = claim(self, bytes);
        fill(blocks[i], (unsigned char)(i + 1));
    }
}

static void
release_some(party *self, shm_block **blocks, int count)
{
    for (int i = 0; i < count; i++) {
        release(self, blocks[i]);
    }
}

static void
trimming_keeps_a_few_large_blocks(void)
{
    parties all;
    shm_block *blocks[6];
    begin(&all);
    claim_some(&all.parent, LARGE, blocks, 6);
    shm_arena_trim(&all.parent.arena);
    CHECK_EQ(committed(&all.parent), 6 * MIB);
    release_some(&all.parent, blocks, 5);
    shm_arena_trim(&all.parent.arena);
    // Two of the free ones, and the one that is held.
    CHECK_EQ(committed(&all.parent), 3 * MIB);
    check_memory_is_accounted_for(&all);
    CHECK(check_all(blocks[5]->payload, blocks[5]->capacity, 6));
    shm_arena_trim(&all.parent.arena);
    CHECK_EQ(committed(&all.parent), 3 * MIB);
    end(&all);
}

static void
trimming_keeps_no_huge_block(void)
{
    parties all;
    begin(&all);
    release(&all.parent, claim(&all.parent, 200 * MIB));
    shm_arena_trim(&all.parent.arena);
    CHECK(committed(&all.parent) < MIB);
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
trimming_keeps_many_small_blocks(void)
{
    parties all;
    static shm_block *blocks[200];
    begin(&all);
    claim_some(&all.parent, 2 * PAGE - sizeof(shm_block_header), blocks, 200);
    release_some(&all.parent, blocks, 200);
    shm_arena_trim(&all.parent.arena);
    CHECK_EQ(committed(&all.parent), MIB + 72 * PAGE);
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
trimmed_blocks_are_used_again_after_warm_ones(void)
{
    parties all;
    shm_block *blocks[6];
    shm_block *again[6];
    begin(&all);
    claim_some(&all.parent, LARGE, blocks, 6);
    release_some(&all.parent, blocks, 6);
    shm_arena_trim(&all.parent.arena);
    // Two are warm: nothing is committed for them.
    again[0] = claim(&all.parent, LARGE);
    again[1] = claim(&all.parent, LARGE);
    CHECK_EQ(committed(&all.parent), 2 * MIB);
    claim_some(&all.parent, LARGE, again + 2, 4);
    CHECK_EQ(committed(&all.parent), 6 * MIB);
    check_memory_is_accounted_for(&all);
    for (int i = 0; i < 6; i++) {
        for (int j = 0; j < i; j++) {
            CHECK(again[i] != again[j]);
        }
    }
    end(&all);
}

static void
a_block_that_cannot_be_committed_stays_free_for_later(void)
{
    parties all;
    shm_block *blocks[3];
    shm_block *block = NULL;
    char path[64];
    begin(&all);
    claim_some(&all.parent, LARGE, blocks, 3);
    release_some(&all.parent, blocks, 3);
    shm_arena_trim(&all.parent.arena);
    CHECK_EQ(committed(&all.parent), 2 * MIB);
    claim(&all.parent, LARGE);
    claim(&all.parent, LARGE);
    // A file that is open for reading refuses.
    int fd = all.parent.region.file.fd;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    all.parent.region.file.fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(all.parent.region.file.fd >= 0);
    CHECK_EQ(shm_arena_claim(&all.parent.arena, LARGE, &block), SHM_NO_MEMORY);
    CHECK(block == NULL);
    close(all.parent.region.file.fd);
    all.parent.region.file.fd = fd;
    CHECK_EQ(committed(&all.parent), 2 * MIB);
    CHECK_EQ(held(&all.parent), 2 * MIB);
    check_memory_is_accounted_for(&all);
    block = claim(&all.parent, LARGE);
    CHECK(block == blocks[0] || block == blocks[1] || block == blocks[2]);
    fill(block, 1);
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
the_parent_trims_what_others_own(void)
{
    parties all;
    shm_block *blocks[6], *here[6];
    begin(&all);
    claim_some(&all.workers[0], LARGE, blocks, 6);
    for (int i = 0; i < 6; i++) {
        here[i] = take_over(&all.parent, blocks[i]);
        CHECK(check_all(here[i]->payload, here[i]->capacity, (unsigned char)(i + 1)));
    }
    release_some(&all.parent, here, 5);
    shm_arena_trim(&all.parent.arena);
    // The owner looks for itself.
    CHECK_EQ(committed(&all.workers[0]), 3 * MIB + 3 * PAGE);
    check_memory_is_accounted_for(&all);
    claim_some(&all.workers[0], LARGE, blocks, 5);
    CHECK_EQ(committed(&all.workers[0]), 6 * MIB);
    check_memory_is_accounted_for(&all);
    for (int i = 0; i < 5; i++) {
        shm_block *again = take_over(&all.parent, blocks[i]);
        CHECK(check_all(again->payload, again->capacity, (unsigned char)(i + 1)));
    }
    CHECK(check_all(here[5]->payload, here[5]->capacity, 6));
    end(&all);
}

// ---- after a death ----

static void
reap(parties *all, uint32_t worker)
{
    die(all, worker);
    shm_arena_free_held(&all->parent.arena, SHM_WORKER(worker));
}

static void
what_the_dead_owned_goes_back_to_the_system(void)
{
    parties all;
    begin(&all);
    shm_block *free_one = claim(&all.workers[0], LARGE);
    shm_block *small = claim(&all.workers[0], 1);
    fill(claim(&all.workers[0], LARGE), 1);
    release(&all.parent, take_over(&all.parent, free_one));
    release(&all.workers[0], small);
    shm_block *others = claim(&all.workers[1], LARGE);
    fill(others, 3);
    reap(&all, 0);
    check_memory_is_accounted_for(&all);
    CHECK(check_all(others->payload, LARGE, 3));
    end(&all);
}

static void
a_dead_owners_block_stays_with_its_holder(void)
{
    parties all;
    begin(&all);
    shm_block *blocks[3], *here[3];
    claim_some(&all.workers[0], LARGE, blocks, 3);
    for (int i = 0; i < 3; i++) {
        here[i] = take_over(&all.parent, blocks[i]);
    }
    release(&all.parent, here[1]);
    reap(&all, 0);
    CHECK(check_all(here[0]->payload, LARGE, 1));
    CHECK(check_all(here[2]->payload, LARGE, 3));
    CHECK_EQ(check_memory(all.parent.region.file.fd), 2 * PAGE + 2 * MIB);
    // What its successor makes is somewhere else.
    join(&all, 0);
    shm_block *new = claim(&all.workers[0], LARGE);
    fill(new, 9);
    CHECK(check_all(here[0]->payload, LARGE, 1));
    CHECK(check_all(here[2]->payload, LARGE, 3));
    release(&all.parent, here[0]);
    release(&all.parent, here[2]);
    CHECK(check_all(new->payload, LARGE, 9));
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
a_successor_begins_where_nothing_is(void)
{
    parties all;
    begin(&all);
    shm_block *old = claim(&all.workers[0], LARGE);
    shm_block *small = claim(&all.workers[0], 1);
    uint64_t offset = old->offset, small_offset = small->offset;
    reap(&all, 0);
    join(&all, 0);
    shm_block *new = claim(&all.workers[0], LARGE);
    CHECK_EQ(new->offset, offset);
    CHECK_EQ(claim(&all.workers[0], 1)->offset, small_offset);
    // The parent's memory of the old one does not hinder.
    fill(new, 4);
    CHECK(check_all(take_over(&all.parent, new)->payload, LARGE, 4));
    end(&all);
}

static void
a_block_that_was_not_written_to_the_end_is_not_overlapped(void)
{
    parties all;
    begin(&all);
    shm_block *here = take_over(&all.parent, claim(&all.workers[0], LARGE));
    reap(&all, 0);
    join(&all, 0);
    CHECK(claim(&all.workers[0], LARGE)->offset >= here->offset + MIB);
    end(&all);
}

static void
what_the_dead_held_returns_to_its_living_owner(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, LARGE);
    take_over(&all.workers[0], block);
    reap(&all, 0);
    CHECK_EQ(holder(block), SHM_NOBODY);
    CHECK(claim(&all.parent, LARGE) == block);
    end(&all);
}

static void
what_the_dead_had_not_taken_over_is_the_senders(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, LARGE);
    seen_by(&all.workers[0], block);
    reap(&all, 0);
    CHECK_EQ(holder(block), SHM_PARENT);
    release(&all.parent, block);
    CHECK(claim(&all.parent, LARGE) == block);
    end(&all);
}

static void
blocks_of_others_are_left_alone(void)
{
    parties all;
    begin(&all);
    shm_block *mine = claim(&all.parent, LARGE);
    shm_block *others = claim(&all.workers[1], LARGE);
    shm_block *sent = claim(&all.parent, LARGE);
    take_over(&all.workers[1], sent);
    reap(&all, 0);
    CHECK_EQ(holder(mine), SHM_PARENT);
    CHECK_EQ(holder(others), SHM_WORKER(1));
    CHECK_EQ(holder(sent), SHM_WORKER(1));
    end(&all);
}

static void
claim_and_trim_for_ever(void *arg)
{
    parties *all = arg;
    party *self = &all->workers[0];
    _Atomic uint64_t *rounds = (_Atomic uint64_t *)(void *)self->region.head;
    for (uint64_t i = 0;; i++) {
        shm_block *blocks[4];
        claim_some(self, i % 2 == 0 ? LARGE / 4 : 2 * PAGE, blocks, 4);
        release_some(self, blocks, i % 8 == 0 ? 3 : 4);
        shm_arena_trim(&self->arena);
        atomic_store(rounds, i);
    }
}

static void
attach_and_claim_for_ever(void *arg)
{
    parties all;
    shm_region *region = arg;
    // As its own process has it: what it inherits is its parent's.
    CHECK_EQ(shm_region_attach(&all.workers[0].region, dup(region->file.fd)), SHM_OK);
    CHECK_EQ(shm_arena_open(&all.workers[0].arena, &all.workers[0].region, SHM_WORKER(0)), SHM_OK);
    claim_and_trim_for_ever(&all);
}

static void
a_process_may_be_killed_anywhere(void)
{
    uint64_t seed = 1;
    parties all;
    begin(&all);
    _Atomic uint64_t *rounds = (_Atomic uint64_t *)(void *)all.parent.region.head;
    for (int i = 0; i < 20; i++) {
        check_child child;
        uint64_t least = check_random(&seed) % 100;
        atomic_store(rounds, 0);
        check_fork(&child, attach_and_claim_for_ever, &all.parent.region);
        CHECK_UNTIL(atomic_load(rounds) > least);
        check_dawdle(&seed);
        check_kill(&child);
        shm_arena_free_held(&all.parent.arena, SHM_WORKER(0));
        check_memory_is_accounted_for(&all);
    }
    end(&all);
}

// ---- forks ----

static void
look_at_what_was_received(void *arg)
{
    shm_block *block = arg;
    CHECK(check_all(block->payload, LARGE, 1));
    memset(block->payload, 2, LARGE);
    // It gives nothing back, and may let go.
    shm_block_release(block, SHM_NOBODY);
}

static void
do_nothing(void *arg)
{
    (void)arg;
}

static void
a_child_has_what_was_received_for_itself(void)
{
    parties all;
    check_child child, later;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    fill(block, 1);
    shm_block *here = take_over(&all.parent, block);
    CHECK(shm_block_open_view(here));
    check_fork_until_done(&child, look_at_what_was_received, here);
    CHECK(check_all(here->payload, LARGE, 1));
    release(&all.parent, here);
    // The child lives: the owner cannot use the block again, and no process takes it for another.
    CHECK_EQ(holder(block), SHM_PARENT);
    CHECK(claim(&all.workers[0], LARGE) != block);
    shm_block *named = NULL;
    CHECK_EQ(shm_arena_find(&all.parent.arena, shm_block_name(block), 1, &named), SHM_NOT_OURS);
    check_kill(&child);
    check_fork_until_done(&later, do_nothing, NULL);
    committed(&all.parent);
    CHECK_EQ(holder(block), SHM_NOBODY);
    check_kill(&later);
    end(&all);
}

static void
what_the_children_of_the_dead_see_is_not_used_again(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, LARGE);
    shm_block *there = take_over(&all.workers[0], block);
    atomic_store(&there->header->is_forked, 1);
    reap(&all, 0);
    CHECK(claim(&all.parent, LARGE) != block);
    CHECK_EQ(holder(block), SHM_WORKER(0));
    end(&all);
}

static void
what_is_looked_at_outlives_the_arena(void)
{
    parties all;
    begin(&all);
    shm_block *blocks[2];
    claim_some(&all.workers[0], LARGE, blocks, 2);
    shm_block *here = take_over(&all.parent, blocks[0]);
    shm_block *other = take_over(&all.parent, blocks[1]);
    CHECK(shm_block_open_view(here));
    release(&all.parent, other);
    int fd = dup(all.parent.region.file.fd);
    end(&all);
    CHECK(check_all(here->payload, LARGE, 1));
    // And nothing else has any memory, but the head.
    CHECK_EQ(check_memory(fd), 2 * PAGE + MIB);
    shm_block_release(here, SHM_NOBODY);
    close(fd);
}

static void
a_part_without_a_viewer_goes_back_at_once(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    fill(block, 1);
    shm_block *here = take_over(&all.parent, block);
    CHECK(shm_block_open_view(here));
    uint64_t before = check_memory(all.parent.region.file.fd);
    shm_block_discard_part(here, 100, MIB / 2);
    CHECK_EQ(check_memory(all.parent.region.file.fd), before - MIB / 2 + PAGE);
    CHECK(check_all(here->payload, 100, 1));
    CHECK(check_all(here->payload + 100 + MIB / 2, LARGE - MIB / 2 - 100, 1));
    // Less than a page, and what lies at the very end.
    shm_block_discard_part(here, LARGE - 100, 100);
    CHECK_EQ(check_memory(all.parent.region.file.fd), before - MIB / 2 + PAGE);
    release(&all.parent, here);
    // The owner has all of it again when it uses it.
    CHECK(claim(&all.workers[0], LARGE) == block);
    fill(block, 2);
    check_memory_is_accounted_for(&all);
    end(&all);
}

static void
a_part_that_a_child_may_look_at_stays(void)
{
    parties all;
    check_child child;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    fill(block, 1);
    shm_block *here = take_over(&all.parent, block);
    CHECK(shm_block_open_view(here));
    check_fork_until_done(&child, do_nothing, NULL);
    uint64_t before = check_memory(all.parent.region.file.fd);
    shm_block_discard_part(here, 0, LARGE);
    CHECK_EQ(check_memory(all.parent.region.file.fd), before);
    check_kill(&child);
    release(&all.parent, here);
    CHECK_EQ(holder(block), SHM_NOBODY);
    end(&all);
}

static void
small_blocks_are_not_looked_at_for_long(void)
{
    parties all;
    begin(&all);
    shm_block *block = take_over(&all.parent, claim(&all.workers[0], SHM_SMALL_BYTES));
    CHECK(!shm_block_open_view(block));
    block = take_over(&all.parent, claim(&all.workers[0], SHM_SMALL_BYTES + 1));
    CHECK(shm_block_open_view(block));
    end(&all);
    shm_block_release(block, SHM_NOBODY);
}

// ---- what another process wrote ----

static void
names_are_checked(void)
{
    parties all;
    begin(&all);
    shm_arena *arena = &all.parent.arena;
    shm_block *block = claim(&all.workers[0], 3 * PAGE), *found = NULL;
    uint64_t name = shm_block_name(block), share = all.parent.region.share_bytes;
    CHECK_EQ(shm_arena_find(arena, name, block->capacity, &found), SHM_OK);
    CHECK_EQ(shm_arena_find(arena, name, block->capacity + 1, &found), SHM_NOT_OURS);
    CHECK_EQ(shm_arena_find(arena, name, UINT64_MAX, &found), SHM_NOT_OURS);
    // Another size than before.
    CHECK_EQ(shm_arena_find(arena, name + 1, 0, &found), SHM_NOT_OURS);
    CHECK_EQ(shm_arena_find(arena, name - 1, 0, &found), SHM_NOT_OURS);
    uint64_t wrong[] = {
        0,
        1,
        PAGE,
        share - PAGE,
        share,      // the parent's own
        4 * share,  // no party's
        UINT64_MAX,
        UINT64_MAX - PAGE + 1,
        2 * share + SHM_ARENA_CLASSES,
        2 * share + PAGE + 30,  // a large one that cannot begin there
        3 * share - PAGE + 3,   // over the end
        2 * share + MIB - PAGE + 1,
        2 * share + SHM_ARENA_CLASSES - 1,
    };
    for (size_t i = 0; i < CHECK_COUNT(wrong); i++) {
        found = NULL;
        CHECK_EQ(shm_arena_find(arena, wrong[i], 0, &found), SHM_NOT_OURS);
        CHECK(found == NULL);
    }
    end(&all);
}

static void
a_block_in_use_is_not_named_again(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE), *found = NULL;
    shm_block *here = take_over(&all.parent, block);
    CHECK_EQ(shm_arena_find(&all.parent.arena, shm_block_name(block), 1, &found), SHM_NOT_OURS);
    reap(&all, 0);
    CHECK_EQ(shm_arena_find(&all.parent.arena, shm_block_name(here), 1, &found), SHM_NOT_OURS);
    end(&all);
}

static void
any_block_that_can_be_can_be_touched(void)
{
    parties all;
    begin(&all);
    uint64_t share = all.parent.region.share_bytes;
    // Where no worker has allocated anything: holes.
    uint64_t names[] = {
        2 * share,
        2 * share + 8 * PAGE + 3,
        3 * share - MIB + 27,
        3 * share + share / 2 + 32,
    };
    for (size_t i = 0; i < CHECK_COUNT(names); i++) {
        shm_block *found = NULL;
        CHECK_EQ(shm_arena_find(&all.parent.arena, names[i], 1, &found), SHM_OK);
        shm_block_take_over(found, SHM_PARENT);
        CHECK(check_all(found->payload, found->capacity, 0));
        release(&all.parent, found);
    }
    end(&all);
}

static void
headers_that_were_written_over_do_no_harm(void)
{
    parties all;
    uint64_t seed = 7;
    begin(&all);
    for (int i = 0; i < 200; i++) {
        shm_block *block = NULL;
        shm_arena *owner = i % 2 == 0 ? &all.workers[0].arena : &all.parent.arena;
        CHECK_EQ(shm_arena_claim(owner, i % 3 == 0 ? LARGE : 1, &block), SHM_OK);
        party *receiver = i % 2 == 0 ? &all.parent : &all.workers[0];
        shm_block *there = NULL;
        if (shm_arena_find(&receiver->arena, shm_block_name(block), 1, &there) == SHM_OK) {
            shm_block_take_over(there, receiver->arena.me);
        }
        for (size_t j = 0; j < sizeof(shm_block_header) / 4; j++) {
            uint32_t word = (uint32_t)check_random(&seed) % (check_chance(&seed, 2) ? 4 : UINT32_MAX);
            memcpy((unsigned char *)block->header + 4 * j, &word, 4);
        }
        if (there != NULL) {
            release(receiver, there);
        }
        shm_arena_trim(&all.parent.arena);
        committed(&all.workers[0]);
    }
    reap(&all, 0);
    end(&all);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(there_is_room_and_at_most_a_quarter_more),
        CHECK_TEST(payloads_are_aligned),
        CHECK_TEST(what_is_larger_than_everything_is_refused),
        CHECK_TEST(a_block_has_one_holder_until_it_is_released),
        CHECK_TEST(a_warm_block_is_used_again_and_again),
        CHECK_TEST(sizes_do_not_mix),
        CHECK_TEST(a_free_block_is_found_among_many_that_are_held),
        CHECK_TEST(a_block_goes_to_another_party_and_comes_back),
        CHECK_TEST(a_process_that_does_not_hold_a_block_cannot_release_it),
        CHECK_TEST(only_the_owner_uses_a_free_block_again),
        CHECK_TEST(close_accepts_what_is_closed),
        CHECK_TEST(a_shortage_is_told_and_passes),
        CHECK_TEST(a_block_that_cannot_be_mapped_goes_back),
        CHECK_TEST(a_full_share_is_a_shortage),
        CHECK_TEST(trimming_keeps_a_few_large_blocks),
        CHECK_TEST(trimming_keeps_no_huge_block),
        CHECK_TEST(trimming_keeps_many_small_blocks),
        CHECK_TEST(trimmed_blocks_are_used_again_after_warm_ones),
        CHECK_TEST(a_block_that_cannot_be_committed_stays_free_for_later),
        CHECK_TEST(the_parent_trims_what_others_own),
        CHECK_TEST(what_the_dead_owned_goes_back_to_the_system),
        CHECK_TEST(a_dead_owners_block_stays_with_its_holder),
        CHECK_TEST(a_successor_begins_where_nothing_is),
        CHECK_TEST(a_block_that_was_not_written_to_the_end_is_not_overlapped),
        CHECK_TEST(what_the_dead_held_returns_to_its_living_owner),
        CHECK_TEST(what_the_dead_had_not_taken_over_is_the_senders),
        CHECK_TEST(blocks_of_others_are_left_alone),
        CHECK_TEST(a_process_may_be_killed_anywhere),
        CHECK_TEST(a_child_has_what_was_received_for_itself),
        CHECK_TEST(what_the_children_of_the_dead_see_is_not_used_again),
        CHECK_TEST(what_is_looked_at_outlives_the_arena),
        CHECK_TEST(a_part_without_a_viewer_goes_back_at_once),
        CHECK_TEST(a_part_that_a_child_may_look_at_stays),
        CHECK_TEST(small_blocks_are_not_looked_at_for_long),
        CHECK_TEST(names_are_checked),
        CHECK_TEST(a_block_in_use_is_not_named_again),
        CHECK_TEST(any_block_that_can_be_can_be_touched),
        CHECK_TEST(headers_that_were_written_over_do_no_harm),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
