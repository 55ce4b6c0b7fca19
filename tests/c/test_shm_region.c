// Tests of core/shm_region: one memory in many mappings, its growth, and what happens when there is
// no more.
//
// A shortage is made by RLIMIT_FSIZE, which memory files obey when they grow.
#define _GNU_SOURCE
#include "check_shm.h"

#include <sys/mman.h>
#include <sys/time.h>

#include "core/shm_region.h"

#define PAGE SHM_PAGE
#define MIB (UINT64_C(1) << 20)

// The header's, as it lies in the file.
typedef struct header {
    uint64_t magic;
    uint64_t reserved_bytes;
    _Atomic uint64_t used_bytes;
} header;

static header *
header_of(shm_region *region)
{
    return (header *)region->base;
}

static uint64_t
used(shm_region *region)
{
    return atomic_load(&header_of(region)->used_bytes);
}

static uint64_t
extend(shm_region *region, uint64_t bytes)
{
    uint64_t offset = 0;
    CHECK_EQ(shm_region_extend(region, bytes, &offset), SHM_OK);
    CHECK(shm_region_contains(region, offset, bytes));
    return offset;
}

static void
check_closed(shm_region *region)
{
    CHECK(region->base == NULL);
    CHECK_EQ(region->fd, -1);
    CHECK_EQ(region->reserved_bytes, 0);
}

// The same region as another process would have it.
static void
attach_again(shm_region *other, shm_region *region)
{
    CHECK_EQ(shm_region_attach(other, dup(region->fd)), SHM_OK);
}

// ---- creation ----

static void
a_new_region_is_a_header_and_no_more(void)
{
    shm_region region;
    struct stat info;
    CHECK_EQ(shm_region_create(&region), SHM_OK);
    CHECK(fstat(region.fd, &info) == 0);
    CHECK_EQ(info.st_size, PAGE);
    CHECK_EQ(check_memory(region.fd), PAGE);
    CHECK_EQ(used(&region), PAGE);
    CHECK(!shm_region_contains(&region, PAGE, 1));
    CHECK(fcntl(region.fd, F_GETFD) & FD_CLOEXEC);
    shm_region_close(&region);
}

static void
the_file_can_neither_shrink_nor_lose_its_seals(void)
{
    shm_region region;
    check_create(&region);
    extend(&region, PAGE);
    CHECK(ftruncate(region.fd, PAGE) < 0 && errno == EPERM);
    CHECK(ftruncate(region.fd, 0) < 0 && errno == EPERM);
    CHECK(fcntl(region.fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
    CHECK(ftruncate(region.fd, 16 * PAGE) == 0);
    shm_region_close(&region);
}

static void
close_accepts_what_is_closed(void)
{
    shm_region region = SHM_REGION_CLOSED;
    shm_region_close(&region);
    check_closed(&region);
    CHECK_EQ(shm_region_create(&region), SHM_OK);
    int fd = region.fd;
    shm_region_close(&region);
    check_closed(&region);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    shm_region_close(&region);
    check_closed(&region);
}

// ---- mappings ----

static void
two_mappings_are_one_memory(void)
{
    shm_region here, there;
    check_create(&here);
    uint64_t before = extend(&here, PAGE);
    attach_again(&there, &here);
    CHECK(there.base != here.base);
    CHECK_EQ(there.reserved_bytes, here.reserved_bytes);
    strcpy((char *)here.base + before, "before");
    CHECK(strcmp((char *)there.base + before, "before") == 0);
    // What either adds is there for both.
    uint64_t after = extend(&there, 3 * PAGE);
    CHECK(after != before);
    CHECK(shm_region_contains(&here, after, 3 * PAGE));
    strcpy((char *)there.base + after, "after");
    CHECK(strcmp((char *)here.base + after, "after") == 0);
    shm_region_close(&here);
    CHECK(strcmp((char *)there.base + before, "before") == 0);
    shm_region_close(&there);
}

typedef struct talk {
    shm_region *region;
    int to_child[2];
    int to_parent[2];
} talk;

static void
answer_what_the_parent_adds(void *arg)
{
    talk *self = arg;
    shm_region mine;
    uint64_t offset;
    attach_again(&mine, self->region);
    shm_region_close(self->region);
    CHECK(read(self->to_child[0], &offset, sizeof(offset)) == sizeof(offset));
    CHECK(shm_region_contains(&mine, offset, PAGE));
    CHECK(strcmp((char *)mine.base + offset, "question") == 0);
    offset = extend(&mine, PAGE);
    strcpy((char *)mine.base + offset, "answer");
    CHECK(write(self->to_parent[1], &offset, sizeof(offset)) == sizeof(offset));
    shm_region_close(&mine);
}

static void
what_one_process_adds_later_is_there_for_the_other(void)
{
    shm_region region;
    talk both = {.region = &region};
    check_child child;
    check_create(&region);
    CHECK(pipe(both.to_child) == 0);
    CHECK(pipe(both.to_parent) == 0);
    check_fork(&child, answer_what_the_parent_adds, &both);
    uint64_t offset = extend(&region, PAGE);
    strcpy((char *)region.base + offset, "question");
    CHECK(write(both.to_child[1], &offset, sizeof(offset)) == sizeof(offset));
    CHECK(read(both.to_parent[0], &offset, sizeof(offset)) == sizeof(offset));
    CHECK(strcmp((char *)region.base + offset, "answer") == 0);
    check_finish(&child);
    for (int i = 0; i < 2; i++) {
        close(both.to_child[i]);
        close(both.to_parent[i]);
    }
    shm_region_close(&region);
}

static void
contains_is_exact(void)
{
    shm_region region;
    check_create(&region);
    uint64_t offset = extend(&region, 2 * PAGE);
    CHECK_EQ(offset, PAGE);
    CHECK(shm_region_contains(&region, PAGE, 2 * PAGE));
    CHECK(shm_region_contains(&region, 3 * PAGE - 1, 1));
    CHECK(shm_region_contains(&region, 3 * PAGE, 0));
    CHECK(!shm_region_contains(&region, PAGE, 2 * PAGE + 1));
    CHECK(!shm_region_contains(&region, 3 * PAGE, 1));
    CHECK(!shm_region_contains(&region, 4 * PAGE, 0));
    CHECK(!shm_region_contains(&region, PAGE - 1, 1));
    CHECK(!shm_region_contains(&region, 0, 0));
    CHECK(!shm_region_contains(&region, PAGE, UINT64_MAX));
    CHECK(!shm_region_contains(&region, 2 * PAGE, UINT64_MAX - 2 * PAGE + 1));
    CHECK(!shm_region_contains(&region, UINT64_MAX, 1));
    // The other side may write anything there: what is not mapped is still outside.
    atomic_store(&header_of(&region)->used_bytes, UINT64_MAX);
    CHECK(!shm_region_contains(&region, region.reserved_bytes, 1));
    CHECK(!shm_region_contains(&region, PAGE, region.reserved_bytes));
    shm_region_close(&region);
}

// ---- growth by many at once ----

#define CREW 2  // threads, and as many processes
#define STRETCHES 200

typedef struct stretch {
    uint64_t offset, bytes;
} stretch;

typedef struct grower {
    check_thread thread;
    shm_region *region;
    unsigned char mark;
    stretch *stretches;  // STRETCHES of them, in the region itself
} grower;

static void
grow(void *arg)
{
    grower *self = arg;
    uint64_t seed = self->mark;
    for (int i = 0; i < STRETCHES; i++) {
        stretch *one = &self->stretches[i];
        one->bytes = (1 + check_random(&seed) % 4) * PAGE;
        one->offset = extend(self->region, one->bytes);
        CHECK(check_all(self->region->base + one->offset, one->bytes, 0));
        memset(self->region->base + one->offset, self->mark, one->bytes);
    }
}

// In a child: extensions that are refused, beside others that are not.  The limit is one of the file's
// size, so one that lies before what another has already allocated may be granted.
static void
be_refused(void *arg)
{
    grower *self = arg;
    shm_region mine;
    attach_again(&mine, self->region);
    check_limit_files(PAGE);
    for (int i = 0; i < STRETCHES; i++) {
        uint64_t offset = 0;
        int rc = shm_region_extend(&mine, PAGE, &offset);
        CHECK(rc == SHM_OK || (rc == SHM_NO_MEMORY && offset == 0));
        CHECK(rc != SHM_OK || check_all(mine.base + offset, PAGE, 0));
    }
}

static void
grow_as_another_process(void *arg)
{
    grower self = *(grower *)arg;
    shm_region mine;
    attach_again(&mine, self.region);
    self.region = &mine;
    grow(&self);
}

static int
compare_stretches(const void *a, const void *b)
{
    uint64_t left = ((const stretch *)a)->offset;
    uint64_t right = ((const stretch *)b)->offset;
    return left < right ? -1 : left > right;
}

static void
extensions_at_once_are_disjoint_and_zero(void)
{
    shm_region region;
    grower growers[2 * CREW];
    check_child children[CREW + 1];
    check_create(&region);
    uint64_t offset = extend(&region, sizeof(stretch) * 2 * CREW * STRETCHES);
    stretch *all = (stretch *)(region.base + offset);
    for (int i = 0; i < 2 * CREW; i++) {
        growers[i].region = &region;
        growers[i].mark = (unsigned char)(i + 1);
        growers[i].stretches = all + i * STRETCHES;
    }
    // Children first: TSan wants no threads of theirs, and fork() copies none.
    check_fork(&children[CREW], be_refused, &growers[0]);
    for (int i = 0; i < CREW; i++) {
        check_fork(&children[i], grow_as_another_process, &growers[CREW + i]);
    }
    for (int i = 0; i < CREW; i++) {
        check_start(&growers[i].thread, grow, &growers[i]);
    }
    for (int i = 0; i < CREW; i++) {
        check_join(&growers[i].thread);
    }
    for (int i = 0; i < CREW + 1; i++) {
        check_finish(&children[i]);
    }
    for (int i = 0; i < 2 * CREW * STRETCHES; i++) {
        unsigned char mark = growers[i / STRETCHES].mark;
        CHECK(check_all(region.base + all[i].offset, all[i].bytes, mark));
    }
    qsort(all, 2 * CREW * STRETCHES, sizeof(stretch), compare_stretches);
    for (int i = 1; i < 2 * CREW * STRETCHES; i++) {
        CHECK(all[i - 1].offset + all[i - 1].bytes <= all[i].offset);
    }
    shm_region_close(&region);
}

static void
grow_for_ever(void *arg)
{
    shm_region *region = arg;
    for (;;) {
        memset(region->base + extend(region, PAGE), 1, PAGE);
    }
}

static void
a_death_while_adding_memory_loses_nothing_else(void)
{
    for (int i = 0; i < 20; i++) {
        shm_region region;
        check_child child;
        check_create(&region);
        check_fork(&child, grow_for_ever, &region);
        CHECK_UNTIL(used(&region) > (uint64_t)(10 + i) * PAGE);
        check_kill(&child);
        uint64_t before = used(&region);
        uint64_t offset = extend(&region, 2 * PAGE);
        CHECK(offset >= before);
        CHECK(check_all(region.base + offset, 2 * PAGE, 0));
        shm_region_close(&region);
    }
}

static void
a_stretch_that_was_reserved_but_never_allocated_is_left_behind(void)
{
    shm_region region;
    check_create(&region);
    // What a process leaves that dies between the two.
    atomic_fetch_add(&header_of(&region)->used_bytes, 4 * PAGE);
    uint64_t offset = extend(&region, PAGE);
    CHECK_EQ(offset, 5 * PAGE);
    CHECK(check_all(region.base + offset, PAGE, 0));
    CHECK_EQ(check_memory(region.fd), 2 * PAGE);
    shm_region_close(&region);
}

// ---- shortage ----

static void
a_refused_extension_takes_itself_back(void)
{
    shm_region region;
    uint64_t offset = 7;
    check_create(&region);
    rlim_t before = check_limit_files(17 * PAGE);
    CHECK_EQ(extend(&region, 16 * PAGE), PAGE);
    uint64_t memory = check_memory(region.fd);
    for (int i = 0; i < 100; i++) {
        CHECK_EQ(shm_region_extend(&region, MIB, &offset), SHM_NO_MEMORY);
        CHECK_EQ(offset, 7);
        CHECK_EQ(used(&region), 17 * PAGE);
        CHECK_EQ(check_memory(region.fd), memory);
    }
    // What it had already works on, and so does the rest when the limit is lifted.
    memset(region.base + PAGE, 1, 16 * PAGE);
    check_limit_files(before);
    CHECK_EQ(extend(&region, MIB), 17 * PAGE);
    CHECK(check_all(region.base + 17 * PAGE, MIB, 0));
    shm_region_close(&region);
}

static void
an_extension_that_is_refused_half_way_gives_everything_back(void)
{
    shm_region region;
    uint64_t offset;
    check_create(&region);
    rlim_t before = check_limit_files(9 * MIB);
    CHECK_EQ(shm_region_extend(&region, 16 * MIB, &offset), SHM_NO_MEMORY);
    CHECK_EQ(check_memory(region.fd), PAGE);
    CHECK_EQ(used(&region), PAGE);
    check_limit_files(before);
    CHECK_EQ(extend(&region, 16 * MIB), PAGE);
    CHECK_EQ(check_memory(region.fd), 16 * MIB + PAGE);
    shm_region_close(&region);
}

static void
address_space_runs_out_like_memory(void)
{
    shm_region region;
    uint64_t offset;
    check_create(&region);
    CHECK_EQ(shm_region_extend(&region, UINT64_MAX, &offset), SHM_NO_MEMORY);
    CHECK_EQ(shm_region_extend(&region, region.reserved_bytes, &offset), SHM_NO_MEMORY);
    CHECK_EQ(used(&region), PAGE);
    // The last page can be had, and no more.
    atomic_store(&header_of(&region)->used_bytes, region.reserved_bytes - PAGE);
    CHECK_EQ(shm_region_extend(&region, PAGE + 1, &offset), SHM_NO_MEMORY);
    offset = extend(&region, PAGE);
    memset(region.base + offset, 1, PAGE);
    CHECK_EQ(shm_region_extend(&region, 1, &offset), SHM_NO_MEMORY);
    // Nor with what the other side might write.
    atomic_store(&header_of(&region)->used_bytes, UINT64_MAX - PAGE);
    CHECK_EQ(shm_region_extend(&region, PAGE, &offset), SHM_NO_MEMORY);
    shm_region_close(&region);
}

static void
create_with_little_address_space(void *arg)
{
    (void)arg;
    shm_region region;
    int fds = check_count_fds();
    // Under a sanitizer the process has terabytes already; what counts is what it may have besides.
    check_limit(RLIMIT_AS, check_address_space() + (UINT64_C(1) << 30) - PAGE);
    CHECK_EQ(shm_region_create(&region), SHM_OK);
    CHECK(region.reserved_bytes < UINT64_C(1) << 30);
    CHECK(region.reserved_bytes >= UINT64_C(1) << 28);
    CHECK_EQ(header_of(&region)->reserved_bytes, region.reserved_bytes);
    memset(region.base + extend(&region, MIB), 1, MIB);
    // An attachment takes as much as the creator did, or fails.
    shm_region other;
    int fd = dup(region.fd);
    check_limit(RLIMIT_AS, check_address_space() + region.reserved_bytes / 2 - PAGE);
    CHECK_EQ(shm_region_attach(&other, fd), SHM_NO_MEMORY);
    check_closed(&other);
    close(fd);
    CHECK_EQ(shm_region_create(&other), SHM_NO_MEMORY);
    check_closed(&other);
    shm_region_close(&region);
    CHECK_EQ(check_count_fds(), fds);
}

static void
a_process_short_of_address_space_gets_less(void)
{
    check_in_child(create_with_little_address_space, NULL);
}

static void
fail_to_create(void *arg)
{
    (void)arg;
    shm_region region;
    int fds = check_count_fds();
    rlim_t before = check_limit_files(0);
    CHECK_EQ(shm_region_create(&region), SHM_NO_MEMORY);
    check_closed(&region);
    check_limit_files(before);
    CHECK_EQ(check_count_fds(), fds);
    // No descriptor is below the limit.
    before = check_limit(RLIMIT_NOFILE, 0);
    CHECK_EQ(shm_region_create(&region), SHM_OS_ERROR);
    CHECK_EQ(errno, EMFILE);
    check_closed(&region);
    check_limit(RLIMIT_NOFILE, before);
    CHECK_EQ(check_count_fds(), fds);
    CHECK_EQ(shm_region_create(&region), SHM_OK);
    shm_region_close(&region);
    CHECK_EQ(check_count_fds(), fds);
}

static void
a_region_that_cannot_be_created_leaves_nothing(void)
{
    check_in_child(fail_to_create, NULL);
}

static void
a_large_extension_gets_done_under_a_fast_timer(void)
{
    shm_region region;
    struct sigaction action;
    struct itimerval often = {{0, 1000}, {0, 1000}};
    struct itimerval never = {{0, 0}, {0, 0}};
    memset(&action, 0, sizeof(action));
    action.sa_handler = check_interrupted;
    CHECK(sigaction(SIGPROF, &action, NULL) == 0);
    check_create(&region);
    // The clock of profilers; ITIMER_REAL is the guard's.
    CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
    extend(&region, 64 * MIB);
    CHECK(setitimer(ITIMER_PROF, &never, NULL) == 0);
    CHECK_EQ(check_memory(region.fd), 64 * MIB + PAGE);
    shm_region_close(&region);
}

// ---- discard and commit ----

static void
discarded_memory_goes_back_and_is_zero_when_committed_again(void)
{
    shm_region region;
    check_create(&region);
    uint64_t offset = extend(&region, MIB);
    uint64_t all = used(&region);
    memset(region.base + offset, 1, MIB);
    CHECK_EQ(check_memory(region.fd), MIB + PAGE);
    shm_region_discard(&region, offset + PAGE, MIB - 2 * PAGE);
    CHECK_EQ(check_memory(region.fd), 3 * PAGE);
    // The stretch stays reserved, and its neighbours what they were.
    CHECK_EQ(used(&region), all);
    CHECK(shm_region_contains(&region, offset, MIB));
    CHECK(check_all(region.base + offset, PAGE, 1));
    CHECK(check_all(region.base + offset + MIB - PAGE, PAGE, 1));
    CHECK_EQ(shm_region_commit(&region, offset + PAGE, MIB - 2 * PAGE), SHM_OK);
    CHECK_EQ(check_memory(region.fd), MIB + PAGE);
    CHECK(check_all(region.base + offset + PAGE, MIB - 2 * PAGE, 0));
    CHECK(check_all(region.base + offset + MIB - PAGE, PAGE, 1));
    shm_region_close(&region);
}

static void
a_commit_of_what_is_there_changes_nothing(void)
{
    shm_region region;
    check_create(&region);
    uint64_t offset = extend(&region, 4 * PAGE);
    memset(region.base + offset, 1, 4 * PAGE);
    CHECK_EQ(shm_region_commit(&region, offset, 4 * PAGE), SHM_OK);
    CHECK(check_all(region.base + offset, 4 * PAGE, 1));
    shm_region_close(&region);
}

static void
a_refused_commit_leaves_the_stretch_discarded(void)
{
    shm_region region;
    check_create(&region);
    // Only where the file has to grow does a limit strike, so this stretch was never allocated.
    atomic_fetch_add(&header_of(&region)->used_bytes, 16 * MIB);
    rlim_t before = check_limit_files(9 * MIB);
    CHECK_EQ(shm_region_commit(&region, PAGE, 16 * MIB), SHM_NO_MEMORY);
    CHECK_EQ(check_memory(region.fd), PAGE);
    check_limit_files(before);
    CHECK_EQ(shm_region_commit(&region, PAGE, 16 * MIB), SHM_OK);
    CHECK(check_all(region.base + PAGE, 16 * MIB, 0));
    shm_region_close(&region);
}

// ---- what is not ours ----

// A file with this content and these seals.
static int
make_file(const void *content, size_t bytes, off_t size, int seals)
{
    int fd = memfd_create("foreign", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    CHECK(fd >= 0);
    CHECK(write(fd, content, bytes) == (ssize_t)bytes);
    CHECK(ftruncate(fd, size) == 0);
    CHECK(seals == 0 || fcntl(fd, F_ADD_SEALS, seals) == 0);
    return fd;
}

// Refused, and the descriptor stays the caller's.
static void
check_refused(int fd, int expected, const char *text)
{
    shm_region region;
    int fds = check_count_fds();
    check_equal(shm_region_attach(&region, fd), expected, text);
    check_closed(&region);
    CHECK_EQ(check_count_fds(), fds);
    close(fd);
}

#define CHECK_REFUSED(fd, expected) check_refused(fd, expected, CHECK_HERE #fd)

static void
foreign_files_are_refused(void)
{
    shm_region region;
    int ends[2];
    header good;
    check_create(&region);
    memcpy(&good, region.base, sizeof(good));
    CHECK(pipe(ends) == 0);
    CHECK_REFUSED(ends[0], SHM_NOT_OURS);
    CHECK_REFUSED(ends[1], SHM_NOT_OURS);
    CHECK_REFUSED(open("/dev/null", O_RDWR), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), PAGE, 0), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), PAGE, F_SEAL_GROW), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), PAGE - 1, F_SEAL_SHRINK), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, 0, 0, F_SEAL_SHRINK), SHM_NOT_OURS);
    // Each of these differs from ours in one thing only.
    header bad = good;
    bad.magic ^= 1;
    CHECK_REFUSED(make_file(&bad, sizeof(bad), PAGE, F_SEAL_SHRINK), SHM_NOT_OURS);
    bad = good;
    bad.reserved_bytes = (UINT64_C(1) << 28) - 1;
    CHECK_REFUSED(make_file(&bad, sizeof(bad), PAGE, F_SEAL_SHRINK), SHM_NOT_OURS);
    bad.reserved_bytes = (UINT64_C(1) << 40) + 1;
    CHECK_REFUSED(make_file(&bad, sizeof(bad), PAGE, F_SEAL_SHRINK), SHM_NOT_OURS);
    shm_region copy;
    CHECK_EQ(shm_region_attach(&copy, make_file(&good, sizeof(good), PAGE, F_SEAL_SHRINK)), SHM_OK);
    shm_region_close(&copy);
    shm_region_close(&region);
}

static void
what_is_no_file_is_an_error_of_the_system(void)
{
    shm_region region;
    CHECK_EQ(shm_region_attach(&region, -1), SHM_OS_ERROR);
    CHECK_EQ(errno, EBADF);
    check_closed(&region);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_new_region_is_a_header_and_no_more),
        CHECK_TEST(the_file_can_neither_shrink_nor_lose_its_seals),
        CHECK_TEST(close_accepts_what_is_closed),
        CHECK_TEST(two_mappings_are_one_memory),
        CHECK_TEST(what_one_process_adds_later_is_there_for_the_other),
        CHECK_TEST(contains_is_exact),
        CHECK_TEST(extensions_at_once_are_disjoint_and_zero),
        CHECK_TEST(a_death_while_adding_memory_loses_nothing_else),
        CHECK_TEST(a_stretch_that_was_reserved_but_never_allocated_is_left_behind),
        CHECK_TEST(a_refused_extension_takes_itself_back),
        CHECK_TEST(an_extension_that_is_refused_half_way_gives_everything_back),
        CHECK_TEST(address_space_runs_out_like_memory),
        CHECK_TEST(a_process_short_of_address_space_gets_less),
        CHECK_TEST(a_region_that_cannot_be_created_leaves_nothing),
        CHECK_TEST(a_large_extension_gets_done_under_a_fast_timer),
        CHECK_TEST(discarded_memory_goes_back_and_is_zero_when_committed_again),
        CHECK_TEST(a_commit_of_what_is_there_changes_nothing),
        CHECK_TEST(a_refused_commit_leaves_the_stretch_discarded),
        CHECK_TEST(foreign_files_are_refused),
        CHECK_TEST(what_is_no_file_is_an_error_of_the_system),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
