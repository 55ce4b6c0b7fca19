// Tests of core/shm_region: one file in many mappings, and what happens when there is no more memory.
#define _GNU_SOURCE
#include "check_shm.h"

#include <sys/mman.h>
#include <sys/time.h>

#include "core/shm_region.h"

#define PAGE SHM_PAGE
#define MIB (UINT64_C(1) << 20)
#define GIB (UINT64_C(1) << 30)

// The header's, as it lies in the file.
typedef struct header {
    uint64_t magic, head_bytes, share_bytes;
} header;

static void
check_closed(shm_region *region)
{
    CHECK(region->head == NULL);
    CHECK_EQ(region->file.fd, -1);
}

// The same region as another process would have it.
static void
attach_again(shm_region *other, shm_region *region)
{
    CHECK_EQ(shm_region_attach(other, dup(region->file.fd)), SHM_OK);
}

static unsigned char *
map(shm_region *region, uint64_t offset, uint64_t bytes)
{
    unsigned char *start = NULL;
    CHECK_EQ(shm_region_map(region, offset, bytes, &start), SHM_OK);
    return start;
}

static unsigned char *
commit_and_map(shm_region *region, uint64_t offset, uint64_t bytes)
{
    CHECK_EQ(shm_region_commit(region, offset, bytes), SHM_OK);
    return map(region, offset, bytes);
}

// ---- creation ----

static void
a_new_region_has_memory_for_its_head_only(void)
{
    shm_region region;
    CHECK_EQ(shm_region_create(&region, 3 * PAGE, 3), SHM_OK);
    CHECK_EQ(region.head_bytes, 3 * PAGE);
    CHECK_EQ(region.share_count, 4);
    CHECK(check_all(region.head, 3 * PAGE, 0));
    CHECK_EQ(check_memory(region.file.fd), 4 * PAGE);
    CHECK(fcntl(region.file.fd, F_GETFD) & FD_CLOEXEC);
    shm_region_close(&region);
}

static void
no_process_can_change_the_size_of_the_file(void)
{
    shm_region region;
    struct stat info;
    check_create(&region);
    CHECK(fstat(region.file.fd, &info) == 0);
    CHECK_EQ(info.st_size, region.share_count * region.share_bytes);
    CHECK(ftruncate(region.file.fd, PAGE) < 0 && errno == EPERM);
    CHECK(ftruncate(region.file.fd, info.st_size + PAGE) < 0 && errno == EPERM);
    CHECK(fcntl(region.file.fd, F_ADD_SEALS, F_SEAL_WRITE) < 0 && errno == EPERM);
    shm_region_close(&region);
}

static void
close_accepts_what_is_closed(void)
{
    shm_region region = SHM_REGION_CLOSED;
    shm_region_close(&region);
    check_closed(&region);
    check_create(&region);
    int fd = region.file.fd;
    shm_region_close(&region);
    check_closed(&region);
    CHECK(fcntl(fd, F_GETFD) < 0 && errno == EBADF);
    shm_region_close(&region);
}

static void
many_parties_have_smaller_shares(void)
{
    shm_region region;
    CHECK_EQ(shm_region_create(&region, PAGE, UINT32_C(1) << 30), SHM_OK);
    CHECK(region.share_bytes >= MIB);
    unsigned char *start = commit_and_map(&region, region.share_bytes * (region.share_count - 1), MIB);
    memset(start, 1, MIB);
    munmap(start, MIB);
    shm_region_close(&region);
}

// ---- mappings ----

static void
two_mappings_are_one_memory(void)
{
    shm_region here, there;
    check_create(&here);
    attach_again(&there, &here);
    CHECK(there.head != here.head);
    CHECK_EQ(there.head_bytes, here.head_bytes);
    CHECK_EQ(there.share_bytes, here.share_bytes);
    CHECK_EQ(there.share_count, here.share_count);
    strcpy((char *)here.head, "in the head");
    CHECK(strcmp((char *)there.head, "in the head") == 0);
    unsigned char *mine = commit_and_map(&here, here.share_bytes, MIB);
    unsigned char *theirs = map(&there, there.share_bytes, MIB);
    strcpy((char *)mine, "in a share");
    CHECK(strcmp((char *)theirs, "in a share") == 0);
    shm_region_close(&here);
    munmap(mine, MIB);
    CHECK(strcmp((char *)theirs, "in a share") == 0);
    munmap(theirs, MIB);
    shm_region_close(&there);
}

static void
address_space_is_taken_as_it_is_used(void)
{
    shm_region region, other;
    rlim_t before = check_address_space();
    check_create(&region);
    attach_again(&other, &region);
    CHECK(check_address_space() - before < 16 * MIB);
    shm_region_close(&other);
    shm_region_close(&region);
}

static void
refuse_to_map(void *arg)
{
    shm_region region, other;
    unsigned char *start = NULL;
    (void)arg;
    check_create(&region);
    int fds = check_count_fds(), fd = dup(region.file.fd);
    check_limit(RLIMIT_AS, check_address_space() + PAGE);
    CHECK_EQ(shm_region_map(&region, region.share_bytes, GIB, &start), SHM_NO_MEMORY);
    CHECK(start == NULL);
    check_limit(RLIMIT_AS, check_address_space());
    CHECK_EQ(shm_region_attach(&other, fd), SHM_NO_MEMORY);
    check_closed(&other);
    close(fd);
    CHECK_EQ(shm_region_create(&other, PAGE, 3), SHM_NO_MEMORY);
    check_closed(&other);
    CHECK_EQ(check_count_fds(), fds);
}

static void
a_process_short_of_address_space_is_told(void)
{
    check_in_child(refuse_to_map, NULL);
}

// ---- memory ----

static void
a_shortage_of_file_size_gives_smaller_shares(void)
{
    shm_region region;
    rlim_t before = check_limit_files(64 * MIB);
    check_create(&region);
    CHECK_EQ(region.share_bytes, 16 * MIB);
    // All of it can be used, also by a process that may write less.
    check_limit_files(PAGE);
    unsigned char *start = commit_and_map(&region, 3 * region.share_bytes, 16 * MIB);
    memset(start, 1, 16 * MIB);
    munmap(start, 16 * MIB);
    shm_region_close(&region);
    CHECK_EQ(shm_region_create(&region, PAGE, 3), SHM_NO_MEMORY);
    check_closed(&region);
    check_limit_files(before);
}

static void
a_head_that_is_larger_than_a_share_is_refused(void)
{
    shm_region region;
    rlim_t before = check_limit_files(4 * MIB);
    CHECK_EQ(shm_region_create(&region, MIB, 3), SHM_NO_MEMORY);
    check_closed(&region);
    check_limit_files(before);
}

static void
fail_to_create(void *arg)
{
    (void)arg;
    shm_region region;
    int fds = check_count_fds();
    // No descriptor is below the limit.
    rlim_t before = check_limit(RLIMIT_NOFILE, 0);
    CHECK_EQ(shm_region_create(&region, PAGE, 3), SHM_OS_ERROR);
    CHECK_EQ(errno, EMFILE);
    check_closed(&region);
    check_limit(RLIMIT_NOFILE, before);
    CHECK_EQ(check_count_fds(), fds);
}

static void
a_region_that_cannot_be_created_leaves_nothing(void)
{
    check_in_child(fail_to_create, NULL);
}

static void
a_large_commit_gets_done_under_a_fast_timer(void)
{
    shm_region region;
    struct sigaction action;
    struct itimerval often = {{0, 1000}, {0, 1000}};
    struct itimerval never = {{0, 0}, {0, 0}};
    memset(&action, 0, sizeof(action));
    action.sa_handler = check_interrupted;
    CHECK(sigaction(SIGPROF, &action, NULL) == 0);
    check_create(&region);
    uint64_t before = check_memory(region.file.fd);
    // The clock of profilers; ITIMER_REAL is the guard's.
    CHECK(setitimer(ITIMER_PROF, &often, NULL) == 0);
    CHECK_EQ(shm_region_commit(&region, region.share_bytes, 64 * MIB), SHM_OK);
    CHECK(setitimer(ITIMER_PROF, &never, NULL) == 0);
    CHECK_EQ(check_memory(region.file.fd), before + 64 * MIB);
    shm_region_close(&region);
}

static void
discarded_memory_goes_back_and_is_zero_when_committed_again(void)
{
    shm_region region;
    check_create(&region);
    uint64_t before = check_memory(region.file.fd), offset = region.share_bytes;
    unsigned char *start = commit_and_map(&region, offset, MIB);
    memset(start, 1, MIB);
    CHECK_EQ(check_memory(region.file.fd), before + MIB);
    shm_region_discard(&region, offset + PAGE, MIB - 2 * PAGE);
    CHECK_EQ(check_memory(region.file.fd), before + 2 * PAGE);
    CHECK(check_all(start, PAGE, 1));
    CHECK(check_all(start + MIB - PAGE, PAGE, 1));
    CHECK_EQ(shm_region_commit(&region, offset + PAGE, MIB - 2 * PAGE), SHM_OK);
    CHECK_EQ(check_memory(region.file.fd), before + MIB);
    CHECK(check_all(start + PAGE, MIB - 2 * PAGE, 0));
    // A commit of what is there changes nothing.
    memset(start, 2, MIB);
    CHECK_EQ(shm_region_commit(&region, offset, MIB), SHM_OK);
    CHECK(check_all(start, MIB, 2));
    munmap(start, MIB);
    shm_region_close(&region);
}

static void
write_at(shm_region *region, uint64_t offset)
{
    unsigned char byte = 1;
    shm_region_write(region, offset, &byte, 1);
}

static void
the_end_of_the_data_is_found(void)
{
    shm_region region;
    check_create(&region);
    uint64_t start = region.share_bytes, end = 2 * region.share_bytes;
    CHECK_EQ(shm_region_end_of_data(&region, start, end), start);
    write_at(&region, start + PAGE);
    CHECK_EQ(shm_region_end_of_data(&region, start, end), start + 2 * PAGE);
    write_at(&region, start + 64 * MIB);
    write_at(&region, start + 65 * MIB);
    CHECK_EQ(shm_region_end_of_data(&region, start, end), start + 65 * MIB + PAGE);
    CHECK_EQ(shm_region_end_of_data(&region, start, start + 64 * MIB), start + 2 * PAGE);
    // What others have is none of it.
    write_at(&region, end);
    CHECK_EQ(shm_region_end_of_data(&region, start, end), start + 65 * MIB + PAGE);
    shm_region_discard(&region, start, end - start);
    CHECK_EQ(shm_region_end_of_data(&region, start, end), start);
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
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW)

static void
foreign_files_are_refused(void)
{
    shm_region region;
    int ends[2];
    header good;
    check_create(&region);
    memcpy(&good, region.head - PAGE, sizeof(good));
    off_t size = (off_t)(region.share_count * region.share_bytes);
    CHECK(pipe(ends) == 0);
    CHECK_REFUSED(ends[0], SHM_NOT_OURS);
    CHECK_REFUSED(ends[1], SHM_NOT_OURS);
    CHECK_REFUSED(open("/dev/null", O_RDWR), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), size, 0), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), size, F_SEAL_GROW), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), size, F_SEAL_SHRINK), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, sizeof(good), PAGE, SEALS), SHM_NOT_OURS);
    CHECK_REFUSED(make_file(&good, 0, 0, SEALS), SHM_NOT_OURS);
    // Each of these differs from ours in one thing only.
    header bad = good;
    bad.magic ^= 1;
    CHECK_REFUSED(make_file(&bad, sizeof(bad), size, SEALS), SHM_NOT_OURS);
    uint64_t shares[] = {0, 1, MIB / 2, good.share_bytes + PAGE, 2 * good.share_bytes, UINT64_MAX};
    for (size_t i = 0; i < CHECK_COUNT(shares); i++) {
        bad = good;
        bad.share_bytes = shares[i];
        CHECK_REFUSED(make_file(&bad, sizeof(bad), size, SEALS), SHM_NOT_OURS);
    }
    uint64_t heads[] = {good.share_bytes, UINT64_MAX, UINT64_MAX - PAGE + 1};
    for (size_t i = 0; i < CHECK_COUNT(heads); i++) {
        bad = good;
        bad.head_bytes = heads[i];
        CHECK_REFUSED(make_file(&bad, sizeof(bad), size, SEALS), SHM_NOT_OURS);
    }
    shm_region copy;
    CHECK_EQ(shm_region_attach(&copy, make_file(&good, sizeof(good), size, SEALS)), SHM_OK);
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

static void
another_file_under_the_number_is_left_alone(void)
{
    shm_region region;
    struct stat info;
    unsigned char *start = NULL;
    check_create(&region);
    int ours = dup(region.file.fd), foreign = make_file("precious", 8, 8, 0);
    CHECK(dup2(foreign, region.file.fd) == region.file.fd);
    CHECK_EQ(shm_region_commit(&region, region.share_bytes, MIB), SHM_NOT_OURS);
    CHECK_EQ(shm_region_map(&region, 0, MIB, &start), SHM_NOT_OURS);
    shm_region_discard(&region, 0, MIB);
    shm_region_write(&region, 0, "worthless", 9);
    // Nor is it closed.
    int number = region.file.fd;
    shm_region_close(&region);
    CHECK(fstat(number, &info) == 0);
    CHECK_EQ(info.st_size, 8);
    char content[8];
    CHECK(pread(number, content, 8, 0) == 8 && memcmp(content, "precious", 8) == 0);
    close(number);
    close(foreign);
    close(ours);
}

static void
a_descriptor_that_was_closed_is_a_refusal(void)
{
    shm_region region;
    check_create(&region);
    close(region.file.fd);
    CHECK_EQ(shm_region_commit(&region, region.share_bytes, MIB), SHM_NOT_OURS);
    // What is mapped works on.
    memset(region.head, 1, region.head_bytes);
    shm_region_close(&region);
}

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_new_region_has_memory_for_its_head_only),
        CHECK_TEST(no_process_can_change_the_size_of_the_file),
        CHECK_TEST(close_accepts_what_is_closed),
        CHECK_TEST(many_parties_have_smaller_shares),
        CHECK_TEST(two_mappings_are_one_memory),
        CHECK_TEST(address_space_is_taken_as_it_is_used),
        CHECK_TEST(a_process_short_of_address_space_is_told),
        CHECK_TEST(a_shortage_of_file_size_gives_smaller_shares),
        CHECK_TEST(a_head_that_is_larger_than_a_share_is_refused),
        CHECK_TEST(a_region_that_cannot_be_created_leaves_nothing),
        CHECK_TEST(a_large_commit_gets_done_under_a_fast_timer),
        CHECK_TEST(discarded_memory_goes_back_and_is_zero_when_committed_again),
        CHECK_TEST(the_end_of_the_data_is_found),
        CHECK_TEST(foreign_files_are_refused),
        CHECK_TEST(what_is_no_file_is_an_error_of_the_system),
        CHECK_TEST(another_file_under_the_number_is_left_alone),
        CHECK_TEST(a_descriptor_that_was_closed_is_a_refusal),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
