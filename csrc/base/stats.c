#include "stats.h"

static PyObject *
build_histogram(const histogram *h)
{
    if (h == NULL) {
        Py_RETURN_NONE;
    }
    static const double shares[] = {0.5, 0.9, 0.99};
    double ns[] = {(double)h->total_ns, 0, 0, 0, (double)h->max_ns};
    uint64_t count = histogram_quantiles(h, 3, shares, ns + 1);
    PyObject *built = PyTuple_New(6);  // Py_BuildValue() takes a tenth of the time of stats() longer
    PyObject *number = built == NULL ? NULL : PyLong_FromUnsignedLongLong(count);
    for (Py_ssize_t i = 0; number != NULL; i++) {
        PyTuple_SET_ITEM(built, i, number);
        if (i == 5) {
            return built;
        }
        number = PyFloat_FromDouble(ns[i] * 1e-9);
    }
    Py_XDECREF(built);
    return NULL;
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
