"""Tells a registry of prometheus_client about executors, when it is asked for a page."""

import weakref

from prometheus_client import REGISTRY
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, SummaryMetricFamily

from pyconc import _metrics

__all__ = ["begin", "end"]

_collectors = weakref.WeakKeyDictionary()  # by registry


def begin(registry):
    registry = REGISTRY if registry is None else registry
    if not callable(getattr(registry, "register", None)):
        raise TypeError(f"into must be a CollectorRegistry of prometheus_client, not {type(registry).__name__}")
    if registry not in _collectors:
        collector = _Collector()
        registry.register(collector)
        _collectors[registry] = collector


def end():
    for registry, collector in list(_collectors.items()):
        del _collectors[registry]
        try:
            registry.unregister(collector)
        except KeyError:
            pass  # the program has done so


class _Collector:
    def describe(self):
        """Return what there is to collect, without numbers: so that the registry knows the names."""
        return _families([])

    def collect(self):
        return _families(list(_metrics.read()))


def _families(found):
    for metric in _metrics.METRICS:
        kind = CounterMetricFamily if metric.is_counter else GaugeMetricFamily
        name = f"{metric.name}_{metric.unit}".replace(".", "_")
        family = kind(name, metric.text, labels=["name", *metric.labels])
        for name, counts in found:
            for labels, value in metric.values(counts):
                family.add_metric([name, *labels.values()], value)
        yield family
    for timer in _metrics.TIMERS:
        *_, longest = timer.metrics()
        name = f"{timer.name}_seconds".replace(".", "_")
        summary = SummaryMetricFamily(name, timer.text, labels=["name"])
        maximum = GaugeMetricFamily(f"{name}_max", longest.text, labels=["name"])
        for executor, counts in found:
            times = timer.times(counts)
            if times is not None:
                summary.add_metric([executor], count_value=times.calls, sum_value=times.total)
                maximum.add_metric([executor], times.max)
        yield from (summary, maximum)
