#define _GNU_SOURCE
#include "trace_log.h"

#include <sys/mman.h>

// So many bytes that were read go back to the system at once.
#define RELEASE_BYTES (UINT64_C(1) << 20)
// Of most systems.  Where they are larger or there are none, pages of the usual size come.
#define HUGE_PAGE_BYTES (UINT64_C(1) << 21)

static size_t
size_of(const trace_log *log)
{
    size_t bytes = (size_t)log->room * sizeof(trace_record);
    return (bytes + HUGE_PAGE_BYTES - 1) / HUGE_PAGE_BYTES * HUGE_PAGE_BYTES;
}

// Memory where huge pages may be, from its beginning to its end; NULL: there is none.  The system does not
// see to that everywhere by itself, and the pages that come instead cost as much as the records in them.
static void *
map(size_t bytes)
{
    // Not reserved: pages come as they are written.
    unsigned char *mapped = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        return NULL;
    }
    size_t before = -(uintptr_t)mapped % HUGE_PAGE_BYTES;
    if (before > 0) {
        munmap(mapped, before);
    }
    munmap(mapped + before + bytes, HUGE_PAGE_BYTES - before);
    return mapped + before;
}

int
trace_log_open(trace_log *log, uint64_t room)
{
    *log = (trace_log){.room = room};
    quick_clock_init(&log->clock);
    log->began_ns = trace_log_now_ns(log);
    if (room == 0 || room > (SIZE_MAX - 2 * HUGE_PAGE_BYTES) / sizeof(trace_record)) {
        return -1;
    }
    void *records = map(size_of(log));
    if (records == NULL) {
        return -1;
    }
    if (madvise(records, size_of(log), MADV_DONTFORK) < 0) {
        munmap(records, size_of(log));
        return -1;
    }
    (void)madvise(records, size_of(log), MADV_HUGEPAGE);
    log->records = records;
    return 0;
}

void
trace_log_close(trace_log *log)
{
    if (log->records != NULL) {
        munmap(log->records, size_of(log));
        log->records = NULL;
    }
}

trace_record *
trace_log_add(trace_log *log, trace_kind kind)
{
    int64_t now_ns = quick_clock_later_ns(&log->clock);
    if (log->count == log->room) {
        return NULL;
    }
    trace_record *record = &log->records[log->count++];
    record->time_ns = now_ns;
    record->kind = (uint8_t)kind;
    return record;
}

trace_record *
trace_log_search(trace_log *log, int64_t call)
{
    trace_record *records = log->records;
    // Calls begin and end more or less in the order in which they were submitted, so it is near the last one:
    // from there in longer and longer steps, until it lies between two of them.
    uint64_t low = log->found, high = log->found;
    for (uint64_t step = 1; low > 0 && records[low].time_ns > call; step *= 2) {
        high = low;
        low = low > step ? low - step : 0;
    }
    for (uint64_t step = 1; high < log->count && records[high].time_ns <= call; step *= 2) {
        low = high;
        high = log->count - high > step ? high + step : log->count;
    }
    while (high - low > 1) {
        uint64_t middle = low + (high - low) / 2;
        *(records[middle].time_ns <= call ? &low : &high) = middle;
    }
    if (low == log->count || records[low].time_ns != call) {
        return NULL;
    }
    log->found = low;
    return &records[low];
}

const trace_record *
trace_log_next(trace_log *log)
{
    uint64_t read_bytes = log->read * sizeof(trace_record);
    if (read_bytes - log->released >= 2 * RELEASE_BYTES) {
        // No error that it could have matters here.
        (void)madvise((char *)log->records + log->released, RELEASE_BYTES, MADV_DONTNEED);
        log->released += RELEASE_BYTES;
    }
    return log->read == log->count ? NULL : &log->records[log->read++];
}
