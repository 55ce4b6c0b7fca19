"""instrument() and uninstrument(): monitoring systems ask each executor of the program what it is doing."""

import importlib
import os
import threading

__all__ = ["instrument", "uninstrument"]

# What there is for each system, and the package that it takes.
_EXPORTERS = {
    "opentelemetry": ("pyconc._metrics_opentelemetry", "opentelemetry-api"),
    "prometheus": ("pyconc._metrics_prometheus", "prometheus-client"),
}

_lock = threading.Lock()  # what is instrumented, here and in those modules
_begun = set()  # the exporters in use


def _begin_anew():
    global _lock
    _lock = threading.Lock()  # whoever held it is not in the child


os.register_at_fork(after_in_child=_begin_anew)


def instrument(exporter, into=None):
    """Have a monitoring system see what every executor of this process does, under names that dashboards know.

    exporter: "prometheus" or "opentelemetry". It takes the package prometheus-client, or opentelemetry-api with an SDK
    that the program sets up; pyconc[prometheus] and pyconc[opentelemetry] name them.
    into: a CollectorRegistry of prometheus_client, by default its REGISTRY; or a MeterProvider of OpenTelemetry, by
    default the program's, which may be set later.

    The names are those of micrometer's ExecutorServiceMetrics: executor.pool.size and executor.pool.max (how many
    workers there are, and may be), executor.active (calls that run), executor.queued, executor.completed (calls that
    have ended, with their outcome: completed, failed, cancelled, timed_out or died), and two timers: executor, for how
    long calls ran, of processes, and of threads with timed=True; and executor.idle, for how long they waited, of all
    with timed=True. Also executor.submitted and executor.abandoned. There is no executor.pool.core and no
    executor.queue.remaining: no executor keeps some workers more than others, and queues have no end. Each has the
    executor's name as its label `name`, so give executors that stay a name=; of several with one name each but the
    first has a number. They are PoolStats' numbers, read when the system asks: until then it costs nothing. An executor
    that is gone is not seen any more; one that a program shuts down, but keeps, is.

    To Prometheus they are executor_pool_size_threads, executor_pool_max_threads, executor_active_threads,
    executor_queued_tasks, executor_abandoned_threads, executor_submitted_tasks_total, executor_completed_tasks_total,
    executor_seconds_count, executor_seconds_sum and executor_seconds_max, and executor_idle_seconds_count and so on.
    OpenTelemetry has the timers as executor.count, executor.sum and executor.max, and executor.idle.count and so on.

    Any thread may call this, and a second time: that changes nothing. The child of a fork is instrumented too, and its
    executors begin at 0. Nothing is left to do at exit.

    Raises ImportError if the package is not installed, ValueError for another exporter, or if the registry has such
    names from elsewhere, and TypeError if into is something else.

        >>> import contextlib
        >>> with contextlib.suppress(ImportError):  # if prometheus-client is not installed
        ...     pyconc.instrument("prometheus")  # and prometheus_client.start_http_server(8000)
    """
    module = _load(exporter)
    with _lock:
        module.begin(into)
        _begun.add(exporter)


instrument.__module__ = __package__


def uninstrument(exporter=None):
    """Have a monitoring system see nothing of executors any more, in no registry and by no provider.

    exporter: as for instrument(); None: each that is in use.

    Any thread may call this, and when nothing is instrumented; in the child of a fork it concerns the child alone.
    Raises ValueError for another exporter.

        >>> pyconc.uninstrument()
    """
    if exporter is not None:
        _check(exporter)
    with _lock:
        for used in _begun & ({*_EXPORTERS} if exporter is None else {exporter}):
            _load(used).end()
            _begun.discard(used)


uninstrument.__module__ = __package__


def _check(exporter):
    if exporter not in _EXPORTERS:
        raise ValueError(f"exporter must be one of {', '.join(map(repr, sorted(_EXPORTERS)))}, not {exporter!r}")


def _load(exporter):
    _check(exporter)
    module, package = _EXPORTERS[exporter]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        message = f"instrument({exporter!r}) needs {package}: pip install 'pyconc[{exporter}]' ({error})"
        raise ImportError(message, name=error.name) from error
