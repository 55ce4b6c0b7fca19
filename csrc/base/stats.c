#include "stats.h"

static PyObject *
build_histogram(const tally *counts)
{
    static const double shares[] = {0.5, 0.9, 0.99};
    double found_ns[3];
    tally_quantiles(counts, 3, shares, found_ns);
    return Py_BuildValue("Kddddd", (unsigned long long)tally_runs(counts), (double)counts->total_ns * 1e-9,
                         found_ns[0] * 1e-9, found_ns[1] * 1e-9, found_ns[2] * 1e-9,
                         (double)counts->max_ns * 1e-9);
}

PyObject *
stats_build(const stats_now *now, const tally *counts, bool has_runs)
{
    PyObject *runs = has_runs ? build_histogram(counts) : Py_NewRef(Py_None);
    const uint64_t numbers[] = {now->workers, now->idle, now->running, now->queued,
                                now->submitted, counts->completed, counts->failed, counts->cancelled,
                                counts->timed_out, counts->died, now->abandoned};
    const Py_ssize_t count = sizeof(numbers) / sizeof(numbers[0]);
    PyObject *built = runs == NULL ? NULL : PyTuple_New(count + 1);
    if (built == NULL) {
        Py_XDECREF(runs);
        return NULL;
    }
    PyTuple_SET_ITEM(built, count, runs);
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *number = PyLong_FromUnsignedLongLong(numbers[i]);
        if (number == NULL) {
            Py_DECREF(built);
            return NULL;
        }
        PyTuple_SET_ITEM(built, i, number);
    }
    return built;
}
