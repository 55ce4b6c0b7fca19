// Tests of core/shm_arena: how large blocks are, whose they are, and who gets what a dead process left.
//
// Parties are arenas of one process, each with a mapping of its own, so that an address of one means
// nothing to the other.  A death is an arena that is closed: its blocks stay what they are.
#define _GNU_SOURCE
#include "check_shm.h"

#include "core/shm_arena.h"

#define PAGE SHM_PAGE
#define MIB (UINT64_C(1) << 20)
#define LARGE (MIB - sizeof(shm_block))  // the payload of a block of 1 MiB
#define WORKERS 2

typedef struct party {
    shm_region region;
    shm_arena arena;
} party;

typedef struct parties {
    party parent;
    party workers[WORKERS];
    uint64_t root;  // the page with the list's first word
} parties;

static void
join(parties *all, party *self, uint32_t me)
{
    _Atomic uint64_t *first = (_Atomic uint64_t *)(self->region.base + all->root);
    CHECK_EQ(shm_arena_open(&self->arena, &self->region, first, me), SHM_OK);
}

static void
begin(parties *all)
{
    check_create(&all->parent.region);
    CHECK_EQ(shm_region_extend(&all->parent.region, PAGE, &all->root), SHM_OK);
    join(all, &all->parent, SHM_PARENT);
    for (uint32_t i = 0; i < WORKERS; i++) {
        CHECK_EQ(shm_region_attach(&all->workers[i].region, dup(all->parent.region.fd)), SHM_OK);
        join(all, &all->workers[i], SHM_WORKER(i));
    }
}

static void
end(parties *all)
{
    for (int i = 0; i < WORKERS; i++) {
        shm_arena_close(&all->workers[i].arena);
        shm_region_close(&all->workers[i].region);
    }
    shm_arena_close(&all->parent.arena);
    shm_region_close(&all->parent.region);
}

// The worker is dead: what it had written stays.
static void
die(parties *all, uint32_t worker)
{
    shm_arena_close(&all->workers[worker].arena);
}

static shm_block *
claim(party *self, uint64_t bytes)
{
    shm_block *block = NULL;
    CHECK_EQ(shm_arena_claim(&self->arena, bytes, &block), SHM_OK);
    CHECK_EQ(atomic_load(&block->owner), self->arena.me);
    CHECK_EQ(atomic_load(&block->holder), self->arena.me);
    CHECK_EQ(atomic_load(&block->committed), 1);
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
    shm_block *mine = shm_arena_at(&self->region, block->offset, 0);
    CHECK(mine != NULL);
    CHECK(mine != block);
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
    uint64_t sum = all->root + PAGE + committed(&all->parent);
    for (int i = 0; i < WORKERS; i++) {
        sum += all->workers[i].arena.classes == NULL ? 0 : committed(&all->workers[i]);
    }
    CHECK_EQ(check_memory(all->parent.region.fd), sum);
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
    uint64_t pages = (bytes + sizeof(shm_block) + PAGE - 1) / PAGE;
    uint64_t has = (block->capacity + sizeof(shm_block)) / PAGE;
    CHECK_EQ((block->capacity + sizeof(shm_block)) % PAGE, 0);
    CHECK(has >= pages);
    CHECK(4 * has <= 5 * pages);
    CHECK(shm_region_contains(&self->region, block->offset, has * PAGE));
    release(self, block);
}

static void
there_is_room_and_at_most_a_quarter_more(void)
{
    parties all;
    begin(&all);
    for (uint64_t pages = 1; pages <= 600; pages++) {
        // The largest that fits so many pages, and the smallest that does not.
        check_size(&all.parent, pages * PAGE - sizeof(shm_block));
        check_size(&all.parent, pages * PAGE - sizeof(shm_block) + 1);
    }
    for (uint64_t bytes = 0; bytes <= 2 * PAGE; bytes += 61) {
        check_size(&all.parent, bytes);
    }
    for (uint64_t bytes = MIB; bytes <= 64 * MIB; bytes *= 2) {
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
        CHECK((unsigned char *)block == all.parent.region.base + block->offset);
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
    CHECK_EQ(shm_arena_claim(&all.parent.arena, UINT64_MAX - sizeof(shm_block), &block), SHM_NO_MEMORY);
    CHECK_EQ(shm_arena_claim(&all.parent.arena, all.parent.region.reserved_bytes, &block), SHM_NO_MEMORY);
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
    CHECK(claim(&all.parent, PAGE - sizeof(shm_block)) == small);
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
    CHECK_EQ(atomic_load(&block->holder), SHM_WORKER(0));
    CHECK(claim(&all.parent, LARGE) != block);
    release(worker, there);
    CHECK_EQ(atomic_load(&block->holder), SHM_NOBODY);
    CHECK_EQ(atomic_load(&block->owner), SHM_PARENT);
    bool again = false;
    for (int i = 0; i < 2 && !again; i++) {
        again = claim(&all.parent, LARGE) == block;
    }
    CHECK(again);
    end(&all);
}

static void
a_receiver_may_pass_a_block_on(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    take_over(&all.parent, block);
    shm_block *there = take_over(&all.workers[1], block);
    release(&all.workers[0], block);
    release(&all.parent, seen_by(&all.parent, block));
    CHECK_EQ(atomic_load(&block->holder), SHM_WORKER(1));
    release(&all.workers[1], there);
    CHECK(claim(&all.workers[0], LARGE) == block);
    end(&all);
}

static void
who_does_not_hold_a_block_cannot_release_it(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, 1);
    release(&all.workers[0], seen_by(&all.workers[0], block));
    CHECK_EQ(atomic_load(&block->holder), SHM_PARENT);
    release(&all.parent, block);
    release(&all.parent, block);
    release(&all.workers[0], seen_by(&all.workers[0], block));
    CHECK_EQ(atomic_load(&block->holder), SHM_NOBODY);
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
    shm_arena_close(&arena);
    begin(&all);
    shm_block *block = claim(&all.parent, 1);
    shm_arena_close(&all.parent.arena);
    // The block stays what it was.
    CHECK_EQ(atomic_load(&block->holder), SHM_PARENT);
    shm_arena_close(&all.parent.arena);
    end(&all);
}

// ---- shortage and trimming ----

static void
a_shortage_is_told_and_passes(void)
{
    parties all;
    shm_block *block = NULL;
    begin(&all);
    shm_block *small = claim(&all.parent, 1);
    rlim_t before = check_limit_files(64 * PAGE);
    for (int i = 0; i < 10; i++) {
        CHECK_EQ(shm_arena_claim(&all.parent.arena, LARGE, &block), SHM_NO_MEMORY);
        CHECK(block == NULL);
        check_memory_is_accounted_for(&all);
    }
    // What is there already can be used.
    release(&all.parent, small);
    CHECK(claim(&all.parent, 1) == small);
    check_limit_files(before);
    fill(claim(&all.parent, LARGE), 1);
    check_memory_is_accounted_for(&all);
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
    // Two of the free ones, the one that is held, and the first pages of the others.
    CHECK_EQ(committed(&all.parent), 3 * MIB + 3 * PAGE);
    check_memory_is_accounted_for(&all);
    CHECK(check_all(blocks[5]->payload, blocks[5]->capacity, 6));
    shm_arena_trim(&all.parent.arena);
    CHECK_EQ(committed(&all.parent), 3 * MIB + 3 * PAGE);
    end(&all);
}

static void
trimming_keeps_many_small_blocks(void)
{
    parties all;
    static shm_block *blocks[200];
    begin(&all);
    claim_some(&all.parent, 2 * PAGE - sizeof(shm_block), blocks, 200);
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
    CHECK_EQ(committed(&all.parent), 2 * MIB + 4 * PAGE);
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
    CHECK_EQ(committed(&all.parent), 2 * MIB + PAGE);
    claim(&all.parent, LARGE);
    claim(&all.parent, LARGE);
    // No limit strikes where the file need not grow; a file that is open for reading refuses as well.
    int fd = all.parent.region.fd;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    all.parent.region.fd = open(path, O_RDONLY | O_CLOEXEC);
    CHECK(all.parent.region.fd >= 0);
    CHECK_EQ(shm_arena_claim(&all.parent.arena, LARGE, &block), SHM_NO_MEMORY);
    CHECK(block == NULL);
    close(all.parent.region.fd);
    all.parent.region.fd = fd;
    CHECK_EQ(committed(&all.parent), 2 * MIB + PAGE);
    CHECK_EQ(held(&all.parent), 2 * MIB);
    check_memory_is_accounted_for(&all);
    block = claim(&all.parent, LARGE);
    CHECK(block == blocks[0] || block == blocks[1] || block == blocks[2]);
    fill(block, 1);
    check_memory_is_accounted_for(&all);
    end(&all);
}

// ---- after a death ----

static void
adopt(parties *all, uint32_t worker)
{
    CHECK_EQ(shm_arena_adopt(&all->parent.arena, SHM_WORKER(worker)), SHM_OK);
    check_memory_is_accounted_for(all);
}

static void
a_free_block_of_the_dead_changes_owner(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    release(&all.workers[0], block);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(atomic_load(&block->owner), SHM_PARENT);
    CHECK_EQ(atomic_load(&block->holder), SHM_NOBODY);
    CHECK(claim(&all.parent, LARGE)->offset == block->offset);
    end(&all);
}

static void
what_the_dead_was_writing_is_free(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    memset(block->payload, 1, LARGE / 2);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(held(&all.parent), 0);
    CHECK(claim(&all.parent, LARGE)->offset == block->offset);
    end(&all);
}

static void
a_block_of_the_dead_stays_with_the_living_who_hold_it(void)
{
    parties all;
    begin(&all);
    shm_block *one = claim(&all.workers[0], LARGE);
    shm_block *two = claim(&all.workers[0], LARGE);
    fill(one, 1);
    fill(two, 2);
    shm_block *here = take_over(&all.parent, one);
    shm_block *there = take_over(&all.workers[1], two);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(held(&all.parent), 2 * MIB);
    CHECK_EQ(atomic_load(&here->holder), SHM_PARENT);
    CHECK_EQ(atomic_load(&there->holder), SHM_WORKER(1));
    shm_block *third = claim(&all.parent, LARGE);
    CHECK(third->offset != one->offset && third->offset != two->offset);
    CHECK(check_all(here->payload, LARGE, 1));
    CHECK(check_all(there->payload, LARGE, 2));
    release(&all.workers[1], there);
    CHECK(claim(&all.parent, LARGE)->offset == two->offset);
    release(&all.parent, here);
    CHECK(claim(&all.parent, LARGE)->offset == one->offset);
    end(&all);
}

static void
what_the_dead_held_returns_to_its_living_owner(void)
{
    parties all;
    begin(&all);
    shm_block *parents = claim(&all.parent, LARGE);
    shm_block *workers = claim(&all.workers[1], LARGE);
    take_over(&all.workers[0], parents);
    take_over(&all.workers[0], workers);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(atomic_load(&workers->owner), SHM_WORKER(1));
    CHECK(claim(&all.parent, LARGE) == parents);
    CHECK(claim(&all.workers[1], LARGE) == workers);
    end(&all);
}

static void
what_the_dead_had_not_taken_over_is_the_senders(void)
{
    parties all;
    begin(&all);
    shm_block *block = claim(&all.parent, LARGE);
    seen_by(&all.workers[0], block);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(atomic_load(&block->holder), SHM_PARENT);
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
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(atomic_load(&mine->holder), SHM_PARENT);
    CHECK_EQ(atomic_load(&others->owner), SHM_WORKER(1));
    CHECK_EQ(atomic_load(&others->holder), SHM_WORKER(1));
    CHECK_EQ(atomic_load(&sent->holder), SHM_WORKER(1));
    end(&all);
}

static void
a_second_adoption_finds_nothing(void)
{
    parties all;
    begin(&all);
    claim(&all.workers[0], LARGE);
    claim(&all.workers[0], 1);
    die(&all, 0);
    adopt(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(committed(&all.parent), MIB + PAGE);
    shm_block *one = claim(&all.parent, LARGE);
    CHECK(claim(&all.parent, LARGE) != one);
    end(&all);
}

static void
the_number_of_the_dead_may_be_used_again(void)
{
    parties all;
    begin(&all);
    shm_block *old = claim(&all.workers[0], LARGE);
    die(&all, 0);
    adopt(&all, 0);
    join(&all, &all.workers[0], SHM_WORKER(0));
    shm_block *new = claim(&all.workers[0], LARGE);
    CHECK(new->offset != old->offset);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(committed(&all.parent), 2 * MIB);
    end(&all);
}

static void
a_successor_may_adopt_what_its_number_left(void)
{
    parties all;
    begin(&all);
    shm_block *free_one = claim(&all.workers[0], LARGE);
    shm_block *sent = claim(&all.workers[0], LARGE);
    shm_block *parents = claim(&all.parent, LARGE);
    release(&all.workers[0], free_one);
    shm_block *here = take_over(&all.parent, sent);
    take_over(&all.workers[0], parents);
    die(&all, 0);
    join(&all, &all.workers[0], SHM_WORKER(0));
    CHECK_EQ(shm_arena_adopt(&all.workers[0].arena, SHM_WORKER(0)), SHM_OK);
    CHECK(claim(&all.workers[0], LARGE) == free_one);
    CHECK(claim(&all.workers[0], LARGE) != sent);
    CHECK(claim(&all.parent, LARGE) == parents);
    CHECK_EQ(atomic_load(&here->holder), SHM_PARENT);
    release(&all.parent, here);
    bool again = false;
    for (int i = 0; i < 3 && !again; i++) {
        again = claim(&all.workers[0], LARGE) == sent;
    }
    CHECK(again);
    check_memory_is_accounted_for(&all);
    end(&all);
}

// A free block that the dead had made and trimmed, or not.
static shm_block *
leave_a_block(parties *all, bool discarded)
{
    shm_block *blocks[3];
    claim_some(&all->workers[0], LARGE, blocks, 3);
    release_some(&all->workers[0], blocks, 3);
    if (discarded) {
        shm_arena_trim(&all->workers[0].arena);
    }
    for (int i = 0; i < 3; i++) {
        if (discarded == (atomic_load(&blocks[i]->committed) == 0)) {
            return blocks[i];
        }
    }
    CHECK(!"there is one");
    return NULL;
}

static void
use_all_three(parties *all)
{
    shm_block *blocks[3];
    claim_some(&all->parent, LARGE, blocks, 3);
    CHECK_EQ(committed(&all->parent), 3 * MIB);
    check_memory_is_accounted_for(all);
    for (int i = 0; i < 3; i++) {
        CHECK(check_all(blocks[i]->payload, blocks[i]->capacity, (unsigned char)(i + 1)));
    }
}

static void
what_the_dead_had_discarded_is_committed_when_it_is_used(void)
{
    parties all;
    begin(&all);
    leave_a_block(&all, true);
    die(&all, 0);
    adopt(&all, 0);
    CHECK_EQ(committed(&all.parent), 2 * MIB + PAGE);
    use_all_three(&all);
    end(&all);
}

static void
a_death_while_discarding_or_committing_is_made_good(void)
{
    parties all;
    begin(&all);
    // It had said that the memory is gone, and died before it was; or it had got it back and died
    // before it said so.
    shm_block *block = leave_a_block(&all, false);
    atomic_store(&block->committed, 0);
    die(&all, 0);
    CHECK_EQ(shm_arena_adopt(&all.parent.arena, SHM_WORKER(0)), SHM_OK);
    use_all_three(&all);
    end(&all);
}

static void
a_death_while_making_a_block_costs_its_memory_and_no_more(void)
{
    parties all;
    uint64_t offset;
    begin(&all);
    shm_block *block = claim(&all.workers[0], LARGE);
    // Before the header was filled in, and after that but before the list knew it.
    CHECK_EQ(shm_region_extend(&all.workers[0].region, MIB, &offset), SHM_OK);
    CHECK_EQ(shm_region_extend(&all.workers[0].region, MIB, &offset), SHM_OK);
    shm_block *unknown = (shm_block *)(all.workers[0].region.base + offset);
    memcpy(unknown, block, sizeof(*block));
    unknown->offset = offset;
    unknown->next = block->offset;
    die(&all, 0);
    CHECK_EQ(shm_arena_adopt(&all.parent.arena, SHM_WORKER(0)), SHM_OK);
    CHECK_EQ(committed(&all.parent), MIB);
    CHECK(claim(&all.parent, LARGE)->offset == block->offset);
    CHECK(claim(&all.parent, LARGE)->offset > offset);
    end(&all);
}

static void
use_blocks_until_killed(void *arg)
{
    parties *all = arg;
    party *self = &all->workers[0];
    shm_block *blocks[4];
    uint64_t next = atomic_load(all->parent.arena.first);
    claim_some(self, LARGE, blocks, 4);
    release_some(self, blocks, 3);
    shm_arena_trim(&self->arena);
    // The parent's blocks, the last of which was made first: one is taken over, one also released.
    shm_block *one = shm_arena_at(&self->region, next, LARGE);
    CHECK(one != NULL);
    shm_block *two = shm_arena_at(&self->region, one->next, LARGE);
    CHECK(two != NULL);
    shm_block_take_over(one, SHM_WORKER(0));
    shm_block_take_over(two, SHM_WORKER(0));
    release(self, two);
}

static void
what_a_killed_process_left_is_adopted(void)
{
    parties all;
    check_child child;
    begin(&all);
    shm_block *two = claim(&all.parent, LARGE);
    shm_block *one = claim(&all.parent, LARGE);
    check_fork_until_done(&child, use_blocks_until_killed, &all);
    CHECK_EQ(atomic_load(&one->holder), SHM_WORKER(0));
    CHECK_EQ(atomic_load(&two->holder), SHM_NOBODY);
    check_kill(&child);
    adopt(&all, 0);
    CHECK_EQ(atomic_load(&one->holder), SHM_NOBODY);
    CHECK_EQ(held(&all.parent), 0);
    CHECK_EQ(committed(&all.parent), 5 * MIB + PAGE);
    shm_block *blocks[6];
    claim_some(&all.parent, LARGE, blocks, 6);
    CHECK_EQ(committed(&all.parent), 6 * MIB);
    end(&all);
}

// A word of the root page that the list does not need.
static _Atomic uint64_t *
blocks_made(parties *all)
{
    return all->parent.arena.first + 1;
}

static void
make_blocks_for_ever(void *arg)
{
    parties *all = arg;
    party *self = &all->workers[0];
    for (uint64_t i = 0;; i++) {
        shm_block *blocks[4];
        claim_some(self, LARGE / 16, blocks, 4);
        release_some(self, blocks, i % 8 == 0 ? 3 : 4);
        shm_arena_trim(&self->arena);
        atomic_store(blocks_made(all), i);
    }
}

static void
a_process_may_be_killed_anywhere(void)
{
    uint64_t seed = 1;
    for (int i = 0; i < 20; i++) {
        parties all;
        check_child child;
        begin(&all);
        uint64_t least = check_random(&seed) % 200;
        check_fork(&child, make_blocks_for_ever, &all);
        CHECK_UNTIL(atomic_load(blocks_made(&all)) > least);
        check_dawdle(&seed);
        check_kill(&child);
        CHECK_EQ(shm_arena_adopt(&all.parent.arena, SHM_WORKER(0)), SHM_OK);
        CHECK_EQ(held(&all.parent), 0);
        // Every block it left has all its memory when it is used.
        uint64_t before = committed(&all.parent);
        for (uint64_t bytes = 0; bytes < before; bytes += MIB / 16) {
            fill(claim(&all.parent, LARGE / 16), 2);
        }
        end(&all);
    }
}

// ---- what another process wrote ----

static void
offsets_are_checked(void)
{
    parties all;
    begin(&all);
    shm_region *region = &all.parent.region;
    shm_block *block = claim(&all.parent, 3 * PAGE);
    uint64_t offset = block->offset;
    CHECK(shm_arena_at(region, offset, 0) == block);
    CHECK(shm_arena_at(region, offset, block->capacity) == block);
    CHECK(shm_arena_at(region, offset, block->capacity + 1) == NULL);
    CHECK(shm_arena_at(region, offset, UINT64_MAX) == NULL);
    for (uint64_t i = 1; i < PAGE; i++) {
        CHECK(shm_arena_at(region, offset + i, 0) == NULL);
    }
    CHECK(shm_arena_at(region, 0, 0) == NULL);
    CHECK(shm_arena_at(region, all.root, 0) == NULL);
    CHECK(shm_arena_at(region, offset + PAGE, 0) == NULL);
    CHECK(shm_arena_at(region, offset + 4 * PAGE, 0) == NULL);
    CHECK(shm_arena_at(region, region->reserved_bytes, 0) == NULL);
    CHECK(shm_arena_at(region, UINT64_MAX - PAGE + 1, 0) == NULL);
    end(&all);
}

static void
headers_are_checked(void)
{
    parties all;
    begin(&all);
    shm_region *region = &all.parent.region;
    shm_block *block = claim(&all.parent, LARGE);
    uint64_t end_offset = block->offset + MIB;
    shm_block good;
    memcpy(&good, block, sizeof(good));
    block->magic ^= 1;
    CHECK(shm_arena_at(region, good.offset, 0) == NULL);
    block->magic ^= 1;
    // A copy of a header, or the header of a block somewhere else.
    block->offset += PAGE;
    CHECK(shm_arena_at(region, good.offset, 0) == NULL);
    block->offset -= PAGE;
    // One byte beyond what is allocated, up to what comes out small again when the header is added.
    uint64_t too_large[] = {
        good.capacity + 1,
        end_offset,
        region->reserved_bytes,
        UINT64_MAX / 2,
        UINT64_MAX - sizeof(shm_block),
        UINT64_MAX - sizeof(shm_block) + 1,
        UINT64_MAX - 1,
        UINT64_MAX,
    };
    for (size_t i = 0; i < CHECK_COUNT(too_large); i++) {
        block->capacity = too_large[i];
        CHECK(shm_arena_at(region, good.offset, 0) == NULL);
        CHECK(shm_arena_at(region, good.offset, too_large[i]) == NULL);
    }
    block->capacity = good.capacity;
    CHECK(shm_arena_at(region, good.offset, good.capacity) == block);
    end(&all);
}

static void
a_list_that_was_written_over_ends_there(void)
{
    uint64_t wrong[] = {1, PAGE, UINT64_MAX, UINT64_C(1) << 39};
    for (size_t i = 0; i < CHECK_COUNT(wrong); i++) {
        parties all;
        begin(&all);
        claim(&all.workers[0], LARGE);
        shm_block *last = claim(&all.workers[0], LARGE);
        last->next = wrong[i];
        die(&all, 0);
        CHECK_EQ(shm_arena_adopt(&all.parent.arena, SHM_WORKER(0)), SHM_OK);
        CHECK_EQ(committed(&all.parent), MIB);
        CHECK(claim(&all.parent, LARGE)->offset == last->offset);
        end(&all);
    }
}

static void
a_list_that_bites_its_tail_is_left(void)
{
    parties all;
    begin(&all);
    shm_block *first = claim(&all.workers[0], LARGE);
    shm_block *last = claim(&all.workers[0], LARGE);
    first->next = last->offset;
    die(&all, 0);
    CHECK_EQ(shm_arena_adopt(&all.parent.arena, SHM_WORKER(0)), SHM_OK);
    CHECK_EQ(committed(&all.parent), 2 * MIB);
    end(&all);
}

static void
a_block_of_no_possible_size_is_not_adopted(void)
{
    uint64_t wrong[] = {
        0,
        1,
        LARGE - 1,
        LARGE - PAGE,  // of 255 pages, where there are only blocks of 224 and 256
        PAGE,
        2 * PAGE,
    };
    for (size_t i = 0; i < CHECK_COUNT(wrong); i++) {
        parties all;
        begin(&all);
        claim(&all.workers[0], 1);
        shm_block *block = claim(&all.workers[0], LARGE);
        claim(&all.workers[0], 1);
        block->capacity = wrong[i];
        die(&all, 0);
        CHECK_EQ(shm_arena_adopt(&all.parent.arena, SHM_WORKER(0)), SHM_OK);
        CHECK_EQ(committed(&all.parent), 2 * PAGE);
        CHECK_EQ(held(&all.parent), 0);
        end(&all);
    }
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
        CHECK_TEST(a_receiver_may_pass_a_block_on),
        CHECK_TEST(who_does_not_hold_a_block_cannot_release_it),
        CHECK_TEST(only_the_owner_uses_a_free_block_again),
        CHECK_TEST(close_accepts_what_is_closed),
        CHECK_TEST(a_shortage_is_told_and_passes),
        CHECK_TEST(trimming_keeps_a_few_large_blocks),
        CHECK_TEST(trimming_keeps_many_small_blocks),
        CHECK_TEST(trimmed_blocks_are_used_again_after_warm_ones),
        CHECK_TEST(a_block_that_cannot_be_committed_stays_free_for_later),
        CHECK_TEST(a_free_block_of_the_dead_changes_owner),
        CHECK_TEST(what_the_dead_was_writing_is_free),
        CHECK_TEST(a_block_of_the_dead_stays_with_the_living_who_hold_it),
        CHECK_TEST(what_the_dead_held_returns_to_its_living_owner),
        CHECK_TEST(what_the_dead_had_not_taken_over_is_the_senders),
        CHECK_TEST(blocks_of_others_are_left_alone),
        CHECK_TEST(a_second_adoption_finds_nothing),
        CHECK_TEST(the_number_of_the_dead_may_be_used_again),
        CHECK_TEST(a_successor_may_adopt_what_its_number_left),
        CHECK_TEST(what_the_dead_had_discarded_is_committed_when_it_is_used),
        CHECK_TEST(a_death_while_discarding_or_committing_is_made_good),
        CHECK_TEST(a_death_while_making_a_block_costs_its_memory_and_no_more),
        CHECK_TEST(what_a_killed_process_left_is_adopted),
        CHECK_TEST(a_process_may_be_killed_anywhere),
        CHECK_TEST(offsets_are_checked),
        CHECK_TEST(headers_are_checked),
        CHECK_TEST(a_list_that_was_written_over_ends_there),
        CHECK_TEST(a_list_that_bites_its_tail_is_left),
        CHECK_TEST(a_block_of_no_possible_size_is_not_adopted),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
