"""Tells a meter provider of OpenTelemetry about executors, when its reader asks.

An instrument cannot be taken away again.  Those of a provider are made once; when they are switched off they have
nothing to tell.
"""

import weakref

from opentelemetry import metrics

from pyconc import _metrics

__all__ = ["begin", "end"]

_known = weakref.WeakKeyDictionary()  # the instruments' switches, by provider


class _GlobalProvider:
    """Stands for the program's, which may be set before or after."""


def begin(provider):
    current = metrics.get_meter_provider()
    provider = current if provider is None else provider
    if not callable(getattr(provider, "get_meter", None)):
        raise TypeError(f"into must be a MeterProvider of OpenTelemetry, not {type(provider).__name__}")
    key = _GlobalProvider if provider is current and provider not in _known else provider
    if key not in _known:
        _known[key] = _Switch()
        _make_instruments(provider.get_meter("pyconc"), _known[key])
    _known[key].is_on = True


def end():
    for switch in _known.values():
        switch.is_on = False


class _Switch:
    is_on = False


def _make_instruments(meter, switch):
    for metric in (*_metrics.METRICS, *(metric for timer in _metrics.TIMERS for metric in timer.metrics())):
        make = meter.create_observable_counter if metric.is_counter else meter.create_observable_gauge
        make(metric.name, callbacks=[_observer(metric, switch)], unit=metric.unit, description=metric.text)


def _observer(metric, switch):
    def observe(options):
        return [
            metrics.Observation(value, {"name": name, **labels})
            for name, counts in (_metrics.read() if switch.is_on else ())
            for labels, value in metric.values(counts)
        ]

    return observe
