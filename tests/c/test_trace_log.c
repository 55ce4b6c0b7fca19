// Tests of core/trace_log.
#define _GNU_SOURCE
#include "core/trace_log.h"

#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "check.h"

static uint64_t
count_records(trace_log *log)
{
    uint64_t count = 0;
    while (trace_log_next(log) != NULL) {
        count++;
    }
    return count;
}

static int64_t
submit(trace_log *log)
{
    const trace_record *record = trace_log_submit(log);
    return record == NULL ? 0 : record->time_ns;
}

static void
a_full_log_counts_the_calls_that_are_missing(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 3), 0);
    int64_t first = submit(&log);
    CHECK(trace_log_add(&log, TRACE_WORKER_END) != NULL);
    int64_t second = submit(&log);
    CHECK(first >= log.began_ns && second > first);
    CHECK_EQ(log.missing, 0);
    CHECK(trace_log_submit(&log) == NULL);
    CHECK(trace_log_submit(&log) == NULL);
    CHECK(trace_log_add(&log, TRACE_STEAL) == NULL);
    CHECK_EQ(log.missing, 2);
    CHECK(log.full_since_ns > second);
    // Those that are there go on.
    trace_log_find(&log, second)->ended_ns = second + 1;
    trace_log_find(&log, first)->began_ns = first + 1;
    CHECK_EQ(trace_log_next(&log)->began_ns, first + 1);
    CHECK_EQ(trace_log_next(&log)->kind, TRACE_WORKER_END);
    CHECK_EQ(trace_log_next(&log)->ended_ns, second + 1);
    CHECK(trace_log_next(&log) == NULL);
    CHECK(trace_log_next(&log) == NULL);
    trace_log_close(&log);
    trace_log_close(&log);
}

static void
every_record_is_later_than_the_one_before(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 10000), 0);
    for (int i = 0; i < 10000; i++) {
        CHECK((i % 3 == 0 ? trace_log_add(&log, TRACE_DELIVERY) : trace_log_submit(&log)) != NULL);
    }
    int64_t last = 0;
    for (const trace_record *record; (record = trace_log_next(&log)) != NULL; last = record->time_ns) {
        CHECK(record->time_ns > last);
    }
    trace_log_close(&log);
}

// Finds every call once, wherever the one before it was.
static void
calls_are_found_in_any_order(void)
{
    enum {
        COUNT = 700
    };
    int64_t calls[COUNT];
    uint64_t state = 1;
    for (uint64_t count = 1; count <= COUNT; count = 2 * count + 1) {
        trace_log log;
        CHECK_EQ(trace_log_open(&log, 2 * COUNT), 0);
        for (uint64_t i = 0; i < count; i++) {
            calls[i] = submit(&log);
            if (check_random(&state) % 2 == 0) {
                (void)trace_log_add(&log, TRACE_STEAL);
            }
        }
        for (uint64_t i = 0; i < 4 * count; i++) {
            uint64_t which = i < count ? i : check_random(&state) % count;
            trace_record *record = trace_log_find(&log, calls[which]);
            CHECK(record != NULL && record->kind == TRACE_CALL);
            CHECK_EQ(record->time_ns, calls[which]);
        }
        trace_log_close(&log);
    }
}

static void
a_call_of_another_log_is_not_found(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 100), 0);
    CHECK(trace_log_find(&log, log.began_ns) == NULL);
    for (int i = 0; i < 10; i++) {
        int64_t call = submit(&log);
        CHECK(trace_log_find(&log, call + 1) == NULL);
        CHECK(trace_log_find(&log, INT64_MAX) == NULL);
        CHECK(trace_log_find(&log, 1) == NULL);
        CHECK_EQ(trace_log_find(&log, call)->time_ns, call);
    }
    trace_log_close(&log);
}

static bool
is_in_memory(const void *page)
{
    unsigned char state = 0;
    return mincore((void *)(uintptr_t)page, 4096, &state) == 0 && (state & 1) != 0;
}

static void
what_was_read_goes_back_to_the_system(void)
{
    enum {
        COUNT = 1 << 17
    };
    trace_log log;
    CHECK_EQ(trace_log_open(&log, COUNT), 0);
    for (int i = 0; i < COUNT; i++) {
        (void)trace_log_add(&log, TRACE_WORKER_BEGIN);
    }
    CHECK(is_in_memory(log.records));
    CHECK_EQ(count_records(&log), COUNT);
    CHECK(!is_in_memory(log.records));
    trace_log_close(&log);
}

static void
the_child_of_a_fork_has_no_records(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 1000), 0);
    (void)trace_log_add(&log, TRACE_WORKER_BEGIN);
    pid_t child = fork();
    if (child == 0) {
        unsigned char state;
        bool is_mapped = mincore(log.records, 4096, &state) == 0;
        trace_log_close(&log);
        _exit(is_mapped ? 1 : 0);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(WIFEXITED(status));
    CHECK_EQ(WEXITSTATUS(status), 0);
    trace_log_close(&log);
}

static void
a_log_needs_room(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 0), -1);
    trace_log_close(&log);
    CHECK_EQ(trace_log_open(&log, UINT64_MAX / 2), -1);
    trace_log_close(&log);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // which map memory of their own
static uint64_t
count_pages(void)
{
    unsigned long pages;
    FILE *file = fopen("/proc/self/statm", "r");
    CHECK(file != NULL && fscanf(file, "%lu", &pages) == 1);
    fclose(file);
    return pages;
}

static void
records_stand_where_huge_pages_may_be_and_nothing_else_is_kept(void)
{
    const uint64_t huge = UINT64_C(1) << 21;
    (void)count_pages();  // has the library allocate what it keeps
    const uint64_t rooms[] = {1, huge / sizeof(trace_record), huge / sizeof(trace_record) + 1, 1000000};
    for (size_t i = 0; i < sizeof(rooms) / sizeof(rooms[0]); i++) {
        for (int round = 0; round < 3; round++) {
            uint64_t before = count_pages();
            trace_log log;
            CHECK_EQ(trace_log_open(&log, rooms[i]), 0);
            CHECK_EQ((uintptr_t)log.records % huge, 0);
            uint64_t pages = count_pages() - before, bytes = rooms[i] * sizeof(trace_record);
            CHECK_EQ(pages * (uint64_t)sysconf(_SC_PAGESIZE), (bytes + huge - 1) / huge * huge);
            trace_log_close(&log);
            CHECK_EQ(count_pages(), before);
        }
    }
}
#endif

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_full_log_counts_the_calls_that_are_missing),
        CHECK_TEST(every_record_is_later_than_the_one_before),
        CHECK_TEST(calls_are_found_in_any_order),
        CHECK_TEST(a_call_of_another_log_is_not_found),
        CHECK_TEST(what_was_read_goes_back_to_the_system),
        CHECK_TEST(the_child_of_a_fork_has_no_records),
        CHECK_TEST(a_log_needs_room),
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
        CHECK_TEST(records_stand_where_huge_pages_may_be_and_nothing_else_is_kept),
#endif
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
