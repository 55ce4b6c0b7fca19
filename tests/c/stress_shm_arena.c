// Parties claim blocks, hand them to each other, pass them on and release them, in rounds, all of them
// losing random bits of time.  In every round
//
// - no block has two users at once;
// - what one party wrote into a block is there for the party that receives it;
// - blocks that are given back to the system and used again have all their memory.
//
// At the end of a round some parties are dead: whatever they held is free, and whatever they owned is
// gone, and after that nothing is lost: every page of the file belongs to a block that a party owns.
//
// The parties are threads, each with an arena of its own.
//
//     stress_shm_arena [rounds [seed]]        or STRESS_SHM_ARENA_ROUNDS and STRESS_SEED
#define _GNU_SOURCE
#include "check_shm.h"

#include "core/shm_arena.h"

#define PARTIES 4
#define STEPS 400
#define MOST_HELD 6
#define MOST_BYTES (20 * SHM_PAGE)
#define MOST_PAGES (1 << 19)  // of each share that have a word in `users`
#define INBOX 8

// What one party tells another, as a slot would.
typedef struct letter {
    uint64_t name, bytes, mark;
} letter;

typedef struct party {
    check_thread thread;
    shm_arena arena;
    uint32_t me;
    uint64_t seed;

    pthread_mutex_t lock;  // of the inbox
    letter inbox[INBOX];
    uint32_t letters;

    // What it holds now.
    shm_block *held[MOST_HELD];
    letter about[MOST_HELD];
    uint32_t count;
} party;

static shm_region region;
static party parties[PARTIES];
static _Atomic uint32_t users[PARTIES][MOST_PAGES];  // the party that uses the block at this page, or 0

// Over all rounds.
static _Atomic uint64_t claims, handed_over, trims;
static uint64_t deaths;

// Returns the party that used the block until now.  Relaxed, here and in all that this program counts: it
// must not put in order what the arena leaves in disorder.
static uint32_t
use(shm_block *block, uint32_t user)
{
    uint64_t page = block->offset % region.share_bytes / SHM_PAGE;
    CHECK(page < MOST_PAGES);
    return atomic_exchange_explicit(&users[block->owner - 1][page], user, memory_order_relaxed);
}

// Marks both ends and some of what is between.
static void
write_marks(shm_block *block, letter *about)
{
    uint64_t state = about->mark;
    for (uint64_t i = 0; i + sizeof(state) <= about->bytes; i += 509 * sizeof(state)) {
        uint64_t word = check_random(&state);
        memcpy(block->payload + i, &word, sizeof(word));
    }
    block->payload[about->bytes - 1] = (unsigned char)about->mark;
}

static void
check_marks(shm_block *block, letter *about)
{
    uint64_t state = about->mark;
    for (uint64_t i = 0; i + sizeof(state) <= about->bytes - 1; i += 509 * sizeof(state)) {
        uint64_t word;
        memcpy(&word, block->payload + i, sizeof(word));
        CHECK(word == check_random(&state) || i + sizeof(state) >= about->bytes);
    }
    CHECK_EQ(block->payload[about->bytes - 1], (unsigned char)about->mark);
}

static void
keep(party *self, shm_block *block, const letter *about)
{
    self->held[self->count] = block;
    self->about[self->count] = *about;
    self->count++;
}

static void
drop(party *self, uint32_t index)
{
    self->count--;
    self->held[index] = self->held[self->count];
    self->about[index] = self->about[self->count];
}

static void
claim_one(party *self)
{
    shm_block *block;
    letter about = {.bytes = 1 + check_random(&self->seed) % MOST_BYTES, .mark = check_random(&self->seed)};
    CHECK_EQ(shm_arena_claim(&self->arena, about.bytes, &block), SHM_OK);
    CHECK_EQ(use(block, self->me), 0);
    CHECK_EQ(block->owner, self->me);
    about.name = shm_block_name(block);
    write_marks(block, &about);
    keep(self, block, &about);
    atomic_fetch_add_explicit(&claims, 1, memory_order_relaxed);
}

static void
release_one(party *self, uint32_t index)
{
    shm_block *block = self->held[index];
    check_marks(block, &self->about[index]);
    CHECK_EQ(use(block, 0), self->me);
    shm_block_release(block, self->me);
    drop(self, index);
}

static void
hand_over(party *self, uint32_t index)
{
    party *other = &parties[check_random(&self->seed) % PARTIES];
    if (other == self || self->held[index]->owner != self->me) {
        return;
    }
    letter about = self->about[index];
    shm_block *block = self->held[index];
    pthread_mutex_lock(&other->lock);
    bool fits = other->letters < INBOX;
    if (fits) {
        // From here on it is the receiver's, which may be quicker than this party.
        CHECK_EQ(use(block, UINT32_MAX), self->me);
        other->inbox[other->letters++] = about;
    }
    pthread_mutex_unlock(&other->lock);
    if (fits) {
        drop(self, index);
        atomic_fetch_add_explicit(&handed_over, 1, memory_order_relaxed);
    }
}

// True if there was a letter to this addressee; what it is about is ours.
static bool
receive(party *self, party *addressee)
{
    letter about;
    pthread_mutex_lock(&addressee->lock);
    bool any = addressee->letters > 0;
    if (any) {
        about = addressee->inbox[--addressee->letters];
    }
    pthread_mutex_unlock(&addressee->lock);
    if (!any) {
        return false;
    }
    shm_block *block = NULL;
    CHECK_EQ(shm_arena_find(&self->arena, about.name, about.bytes, &block), SHM_OK);
    shm_block_take_over(block, self->me);
    shm_block_open_view(block);
    CHECK_EQ(use(block, self->me), UINT32_MAX);
    check_marks(block, &about);
    keep(self, block, &about);
    return true;
}

static void
live(void *arg)
{
    party *self = arg;
    for (int i = 0; i < STEPS; i++) {
        uint64_t what = check_random(&self->seed) % 8;
        if (self->count == MOST_HELD || (self->count > 0 && what < 3)) {
            release_one(self, (uint32_t)(check_random(&self->seed) % self->count));
        }
        else if (self->count > 0 && what < 5) {
            hand_over(self, (uint32_t)(check_random(&self->seed) % self->count));
        }
        else if (what == 5 || !receive(self, self)) {
            claim_one(self);
        }
        if (check_chance(&self->seed, 64)) {
            shm_arena_trim(&self->arena);
            atomic_fetch_add_explicit(&trims, 1, memory_order_relaxed);
        }
        if (check_chance(&self->seed, 8)) {
            check_dawdle(&self->seed);
        }
    }
}

// ---- between the rounds there is one thread ----

static void
release_all(party *self)
{
    while (self->count > 0) {
        release_one(self, 0);
    }
}

static void
open_arena(party *self)
{
    CHECK_EQ(shm_arena_open(&self->arena, &region, self->me), SHM_OK);
}

// The party is gone, with all that it knew; only what others hold of it stays, which is nothing here.
static void
die_and_be_reaped(party *self)
{
    while (self->count > 0) {
        use(self->held[self->count - 1], 0);
        drop(self, self->count - 1);
    }
    shm_arena_close(&self->arena, false);
    for (int i = 0; i < PARTIES; i++) {
        if (parties[i].arena.me != SHM_NOBODY) {
            shm_arena_free_held(&parties[i].arena, self->me);
        }
    }
    open_arena(self);
    deaths++;
}

// Blocks without memory.
static uint64_t
count_cold(const shm_arena *arena)
{
    uint64_t count = 0;
    for (int i = 0; i < SHM_ARENA_CLASSES; i++) {
        for (uint32_t j = 0; j < arena->classes[i].count; j++) {
            count += arena->classes[i].blocks[j]->header == NULL;
        }
    }
    return count;
}

static void
end_round(uint64_t *seed)
{
    // Letters are read before any party is reaped, as slots are.
    for (int i = 0; i < PARTIES; i++) {
        do {
            release_all(&parties[i]);
        } while (receive(&parties[i], &parties[i]));
    }
    // What each holds when some die.
    for (int i = 0; i < PARTIES; i++) {
        claim_one(&parties[i]);
    }
    for (int i = 1; i < PARTIES; i++) {
        if (check_chance(seed, 2)) {
            die_and_be_reaped(&parties[i]);
        }
        else {
            release_all(&parties[i]);
        }
    }
    release_all(&parties[0]);
    uint64_t sum = 2 * SHM_PAGE, cold = 0;
    for (int i = 0; i < PARTIES; i++) {
        uint64_t committed, held;
        shm_arena_count(&parties[i].arena, &committed, &held);
        CHECK_EQ(held, 0);
        sum += committed;
        cold += count_cold(&parties[i].arena);
    }
    // A party that has looked at the header of a block that was given back has brought a page of it back.
    uint64_t memory = check_memory(region.file.fd);
    CHECK(memory >= sum && memory - sum <= cold * SHM_PAGE);
}

int
main(int argc, char **argv)
{
    uint64_t rounds = check_number(argc, argv, 1, "STRESS_SHM_ARENA_ROUNDS", CHECK_ROUNDS(500));
    uint64_t seed = check_number(argc, argv, 2, "STRESS_SEED", 1);
    printf("stress_shm_arena %llu %llu\n", (unsigned long long)rounds, (unsigned long long)seed);
    fflush(stdout);
    check_guard("stress_shm_arena");
    CHECK_EQ(shm_region_create(&region, SHM_PAGE, SHM_PARTIES(PARTIES - 1)), SHM_OK);
    for (uint32_t i = 0; i < PARTIES; i++) {
        parties[i].me = i == 0 ? SHM_PARENT : SHM_WORKER(i - 1);
        CHECK(pthread_mutex_init(&parties[i].lock, NULL) == 0);
        open_arena(&parties[i]);
    }
    for (uint64_t round = 0; round < rounds; round++) {
        check_guard("stress_shm_arena");
        for (int i = 0; i < PARTIES; i++) {
            parties[i].seed = check_random(&seed);
            check_start(&parties[i].thread, live, &parties[i]);
        }
        for (int i = 0; i < PARTIES; i++) {
            check_join(&parties[i].thread);
        }
        end_round(&seed);
    }
    for (int i = 0; i < PARTIES; i++) {
        shm_arena_close(&parties[i].arena, true);
        CHECK(pthread_mutex_destroy(&parties[i].lock) == 0);
    }
    shm_region_close(&region);
    printf("ok: %llu claims, %llu handed over, %llu trims, %llu deaths\n",
           (unsigned long long)atomic_load(&claims), (unsigned long long)atomic_load(&handed_over),
           (unsigned long long)atomic_load(&trims), (unsigned long long)deaths);
    return EXIT_SUCCESS;
}
