#include "stats.h"

static PyObject *
build_histogram(const histogram *h)
{
    if (h == NULL) {
        Py_RETURN_NONE;
    }
    static const double shares[] = {0.5, 0.9, 0.99};
    double found_ns[3];
    histogram_quantiles(h, 3, shares, found_ns);
    return Py_BuildValue("Kddddd", (unsigned long long)histogram_count(h), (double)h->total_ns * 1e-9,
                         found_ns[0] * 1e-9, found_ns[1] * 1e-9, found_ns[2] * 1e-9,
                         (double)h->max_ns * 1e-9);
}

PyObject *
stats_build(const stats_now *now, const tally *counts, const histogram *runs,
            const histogram *waits)
{
    const uint64_t numbers[] = {now->workers, now->idle, now->running, now->queued,
                                now->submitted, counts->completed, counts->failed, counts->cancelled,
                                counts->timed_out, counts->died, now->abandoned, now->recycled,
                                now->stolen};
    const Py_ssize_t count = sizeof(numbers) / sizeof(numbers[0]);
    PyObject *built = PyTuple_New(count + 2);
    if (built == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[i]);
        if (number == NULL) {
            Py_DECREF(built);
            return NULL;
        }
        PyTuple_SET_ITEM(built, i, number);
    }
    const histogram *const histograms[] = {runs, waits};
    for (Py_ssize_t i = 0; i < 2; i++) {
        PyObject *described = build_histogram(histograms[i]);
        if (described == NULL) {
            Py_DECREF(built);
            return NULL;
        }
        PyTuple_SET_ITEM(built, count + i, described);
    }
    return built;
}
