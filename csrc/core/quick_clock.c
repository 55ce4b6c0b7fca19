#define _GNU_SOURCE
#include "quick_clock.h"

#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

#define COMPARE_NS INT64_C(1000000)
// A comparison is worth nothing if the thread was held up in it: longer than reading the clock ever takes.
#define NEAR_TICKS 5000
// Two measurements agree if they differ by a thousandth: the kernel slews its clock by half of that at most.
#define AGREE_SHIFT 10
// No counter is so slow, nor so fast.
#define TICK_MIN (UINT64_C(1) << 28)
#define TICK_MAX (UINT64_C(1) << 36)

// Whether the kernel's own clock is this counter: then it has looked whether all processors have the same.
static bool
kernel_trusts_counter(void)
{
#ifdef __x86_64__
    char name[8] = "";
    int file =
        open("/sys/devices/system/clocksource/clocksource0/current_clocksource", O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return false;
    }
    ssize_t bytes = read(file, name, sizeof(name) - 1);
    close(file);
    return bytes == 4 && memcmp(name, "tsc\n", 4) == 0;
#else
    return false;
#endif
}

void
quick_clock_init(quick_clock *self)
{
    *self = (quick_clock){.has_counter = kernel_trusts_counter()};
}

int64_t
quick_clock_compare(quick_clock *self)
{
    if (!self->has_counter) {
        return clock_now_ns();
    }
    uint64_t ticks = quick_clock_ticks();
    int64_t now_ns = clock_now_ns();
    int64_t elapsed_ns = now_ns - self->compared_ns;
    if (quick_clock_ticks() - ticks > NEAR_TICKS || elapsed_ns < COMPARE_NS) {
        return now_ns;
    }
    double tick = (double)elapsed_ns / (double)(ticks - self->compared) * (double)(UINT64_C(1) << 32);
    bool is_sane = tick > (double)TICK_MIN && tick < (double)TICK_MAX;
    uint64_t measured = is_sane ? (uint64_t)tick : 0;
    uint64_t differs = measured > self->tick ? measured - self->tick : self->tick - measured;
    bool agrees = is_sane && differs <= measured >> AGREE_SHIFT;
    self->trusted = agrees ? ((uint64_t)COMPARE_NS << 32) / measured : 0;
    self->tick = measured;
    self->compared = ticks;
    self->compared_ns = now_ns;
    return now_ns;
}
