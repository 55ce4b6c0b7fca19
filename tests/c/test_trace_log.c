// Tests of core/trace_log.
#define _GNU_SOURCE
#include "core/trace_log.h"

#include <sys/mman.h>
#include <sys/wait.h>

#include "check.h"

static void
add(trace_log *log, trace_kind kind, int64_t call, int64_t time_ns)
{
    trace_record *record = trace_log_add(log, kind, time_ns);
    if (record != NULL) {
        record->call = call;
    }
}

static uint64_t
count_records(trace_log *log)
{
    uint64_t count = 0;
    while (trace_log_next(log) != NULL) {
        count++;
    }
    return count;
}

static void
a_call_is_there_whole_or_not_at_all(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 8), 0);
    int64_t first = trace_log_admit(&log);
    CHECK(first != 0 && trace_log_has(&log, first));
    add(&log, TRACE_SUBMIT, first, first);
    int64_t second = trace_log_admit(&log);
    CHECK(second > first);
    add(&log, TRACE_SUBMIT, second, second);
    // Six of eight are kept for those two.
    CHECK_EQ(trace_log_admit(&log), 0);
    CHECK_EQ(trace_log_admit(&log), 0);
    CHECK_EQ(log.missing, 2);
    CHECK(log.full_since_ns >= second);
    for (int i = 0; i < 10; i++) {
        add(&log, TRACE_WORKER_END, 0, second + 1);
    }
    CHECK_EQ(log.count, 4);
    add(&log, TRACE_BEGIN, first, second + 1);
    add(&log, TRACE_END, first, second + 2);
    add(&log, TRACE_BEGIN, second, second + 1);
    add(&log, TRACE_END, second, second + 2);
    CHECK_EQ(log.count, 8);
    CHECK_EQ(count_records(&log), 8);
    trace_log_close(&log);
    trace_log_close(&log);
}

static void
no_two_calls_are_the_same(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 30000), 0);
    int64_t last = 0;
    for (int i = 0; i < 10000; i++) {
        int64_t call = trace_log_admit(&log);
        CHECK(call > last);
        last = call;
    }
    CHECK_EQ(trace_log_admit(&log), 0);
    trace_log_close(&log);
    // Those of one log are not another's.
    CHECK_EQ(trace_log_open(&log, 3), 0);
    CHECK(!trace_log_has(&log, last) || last >= log.began_ns);
    CHECK(!trace_log_has(&log, 0));
    trace_log_close(&log);
}

static void
records_are_read_in_the_order_of_their_times(void)
{
    uint64_t state = 1;
    for (uint64_t count = 0; count < 3000; count = 2 * count + 1) {
        trace_log log;
        uint64_t sum = 0, found = 0;
        int64_t last = INT64_MIN;
        CHECK_EQ(trace_log_open(&log, count + 1), 0);
        for (uint64_t i = 0; i < count; i++) {
            int64_t time_ns = (int64_t)(check_random(&state) % (count * 2));
            sum += (uint64_t)time_ns;
            add(&log, TRACE_WORKER_BEGIN, 0, time_ns);
        }
        trace_log_sort(&log);
        for (const trace_record *record; (record = trace_log_next(&log)) != NULL; last = record->time_ns) {
            CHECK(record->time_ns >= last);
            found += (uint64_t)record->time_ns;
        }
        CHECK_EQ(found, sum);
        trace_log_close(&log);
    }
}

static void
at_one_time_a_call_begins_before_it_ends(void)
{
    trace_log log;
    CHECK_EQ(trace_log_open(&log, 3), 0);
    int64_t call = trace_log_admit(&log);
    add(&log, TRACE_END, call, call);
    add(&log, TRACE_SUBMIT, call, call);
    add(&log, TRACE_BEGIN, call, call);
    trace_log_sort(&log);
    CHECK_EQ(trace_log_next(&log)->kind, TRACE_SUBMIT);
    CHECK_EQ(trace_log_next(&log)->kind, TRACE_BEGIN);
    CHECK_EQ(trace_log_next(&log)->kind, TRACE_END);
    CHECK(trace_log_next(&log) == NULL);
    CHECK(trace_log_next(&log) == NULL);
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
    for (int64_t i = 0; i < COUNT; i++) {
        add(&log, TRACE_WORKER_BEGIN, 0, i);
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
    add(&log, TRACE_WORKER_BEGIN, 0, 1);
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

int
main(int argc, char **argv)
{
    static const check_test tests[] = {
        CHECK_TEST(a_call_is_there_whole_or_not_at_all),
        CHECK_TEST(no_two_calls_are_the_same),
        CHECK_TEST(records_are_read_in_the_order_of_their_times),
        CHECK_TEST(at_one_time_a_call_begins_before_it_ends),
        CHECK_TEST(what_was_read_goes_back_to_the_system),
        CHECK_TEST(the_child_of_a_fork_has_no_records),
        CHECK_TEST(a_log_needs_room),
    };
    return check_run(tests, CHECK_COUNT(tests), argc, argv);
}
