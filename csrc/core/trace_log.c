#define _GNU_SOURCE
#include "trace_log.h"

#include <sys/mman.h>

// What a call that is admitted may need after its SUBMIT: a BEGIN and an END.
#define LATER_RECORDS 2
// So many bytes that were read go back to the system at once.
#define RELEASE_BYTES (UINT64_C(1) << 20)

static size_t
size_of(const trace_log *log)
{
    return (size_t)log->room * sizeof(trace_record);
}

int
trace_log_open(trace_log *log, uint64_t room)
{
    *log = (trace_log){.room = room};
    quick_clock_init(&log->clock);
    log->began_ns = trace_log_now_ns(log);
    if (room == 0 || room > SIZE_MAX / sizeof(trace_record)) {
        return -1;
    }
    // Not reserved: pages come as they are written.
    void *records = mmap(NULL, size_of(log), PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (records == MAP_FAILED) {
        return -1;
    }
    if (madvise(records, size_of(log), MADV_DONTFORK) < 0) {
        munmap(records, size_of(log));
        return -1;
    }
    (void)madvise(records, size_of(log), MADV_HUGEPAGE);  // a page for a few records costs as much as they do
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

int64_t
trace_log_admit(trace_log *log)
{
    int64_t call = quick_clock_later_ns(&log->clock);
    if (log->room - log->count < log->kept + 1 + LATER_RECORDS) {
        log->full_since_ns = log->missing++ == 0 ? call : log->full_since_ns;
        return 0;
    }
    log->kept += 1 + LATER_RECORDS;
    return call;
}

static bool
is_before(const trace_record *a, const trace_record *b)
{
    return a->time_ns != b->time_ns ? a->time_ns < b->time_ns : a->kind < b->kind;
}

// Shell's sort: most records are in their place, or near it.
void
trace_log_sort(trace_log *log)
{
    trace_record *records = log->records;
    uint64_t gap = 1;
    while (gap < log->count / 3) {
        gap = gap * 9 / 4 + 1;
    }
    for (;; gap = gap * 4 / 9) {
        gap = gap == 0 ? 1 : gap;
        for (uint64_t i = gap; i < log->count; i++) {
            trace_record record = records[i];
            uint64_t place = i;
            for (; place >= gap && is_before(&record, &records[place - gap]); place -= gap) {
                records[place] = records[place - gap];
            }
            records[place] = record;
        }
        if (gap == 1) {
            return;
        }
    }
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
