"""instrument(): what Prometheus and OpenTelemetry see of executors is what stats() says."""

import gc
import sys
import threading
from typing import ClassVar

import pytest
from gates import Gate, block_workers
from support import run_script, wait_until

import pyconc

OUTCOMES = ["completed", "failed", "cancelled", "timed_out", "died"]


def fail():
    raise LookupError("as it should")


class Prometheus:
    NAMES: ClassVar = {
        "executor_pool_size_threads": "executor.pool.size",
        "executor_pool_max_threads": "executor.pool.max",
        "executor_active_threads": "executor.active",
        "executor_queued_tasks": "executor.queued",
        "executor_abandoned_threads": "executor.abandoned",
        "executor_submitted_tasks_total": "executor.submitted",
        "executor_completed_tasks_total": "executor.completed",
        "executor_seconds_count": "executor.count",
        "executor_seconds_sum": "executor.sum",
        "executor_seconds_max": "executor.max",
        "executor_idle_seconds_count": "executor.idle.count",
        "executor_idle_seconds_sum": "executor.idle.sum",
        "executor_idle_seconds_max": "executor.idle.max",
    }

    def __init__(self):
        prometheus_client = pytest.importorskip("prometheus_client")
        self._parse = pytest.importorskip("prometheus_client.parser").text_string_to_metric_families
        self.into = prometheus_client.CollectorRegistry(auto_describe=True)
        self._page = lambda: prometheus_client.generate_latest(self.into).decode()

    def samples(self):
        """What a server gets: triples of a name, labels and a number."""
        for family in self._parse(self._page()):
            for sample in family.samples:
                yield self.NAMES[sample.name], dict(sample.labels), sample.value

    def close(self):
        pass


class OpenTelemetry:
    def __init__(self):
        metrics = pytest.importorskip("opentelemetry.sdk.metrics")
        self._reader = metrics.export.InMemoryMetricReader()
        self.into = metrics.MeterProvider([self._reader])

    def samples(self):
        data = self._reader.get_metrics_data()
        for resource in data.resource_metrics if data is not None else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    for point in metric.data.data_points:
                        yield metric.name, dict(point.attributes), point.value

    def close(self):
        self.into.shutdown()


SYSTEMS = {"prometheus": Prometheus, "opentelemetry": OpenTelemetry}


@pytest.fixture(params=SYSTEMS)
def system(request):
    """A monitoring system that is told of executors."""
    gc.collect()  # executors of other tests
    system = SYSTEMS[request.param]()
    system.exporter = request.param
    pyconc.instrument(system.exporter, system.into)
    yield system
    pyconc.uninstrument()
    system.close()


def seen(system):
    """By executor and metric, what is seen: a number, or what there is by outcome.  Nothing is seen twice."""
    found = {}
    for metric, labels, value in system.samples():
        of_executor = found.setdefault(labels["name"], {})
        if "outcome" in labels:
            of_executor, metric = of_executor.setdefault(metric, {}), labels["outcome"]
        assert metric not in of_executor
        of_executor[metric] = value
    return found


def test_a_busy_executor_is_seen_as_it_is(system):
    with pyconc.ThreadPoolExecutor(2, name="loader") as pool:
        with Gate() as gate:
            block_workers(pool, gate, 2)
            ends = pool.submit(fail), pool.submit(abs, 1)
            ends[1].cancel()
            assert seen(system)["loader"] == {
                "executor.pool.size": 2,
                "executor.pool.max": 2,
                "executor.active": 2,
                "executor.queued": pool.stats().queued,
                "executor.abandoned": 0,
                "executor.submitted": 4,
                "executor.completed": {**dict.fromkeys(OUTCOMES, 0), "cancelled": pool.stats().cancelled},
            }
        with pytest.raises(LookupError):
            ends[0].result()
    ended = {"completed": 2, "failed": 1, "cancelled": 1, "timed_out": 0, "died": 0}
    wait_until(lambda: seen(system)["loader"]["executor.completed"] == ended, "the calls to be counted")
    assert seen(system)["loader"]["executor.pool.size"] == 0


def test_calls_in_processes_are_timed(system):
    with pyconc.ProcessPoolExecutor(1, name="resize", timed=True) as pool:
        pool.submit(abs, 1).result()
        assert pool.submit(fail).exception() is not None
        found, run, wait = seen(system)["resize"], *pool.stats()[-2:]
    assert found["executor.completed"] == {"completed": 1, "failed": 1, "cancelled": 0, "timed_out": 0, "died": 0}
    assert (found["executor.count"], found["executor.max"]) == (2, run.max)
    assert found["executor.sum"] == pytest.approx(run.total)
    assert (found["executor.idle.count"], found["executor.idle.max"]) == (2, wait.max)
    assert found["executor.idle.sum"] == pytest.approx(wait.total)


def test_names_differ_and_are_kept_and_those_of_executors_that_are_gone_are_free_again(system):
    def names():
        gc.collect()
        return {name for name in seen(system) if name.startswith("same")}

    one, two, odd = (pyconc.ThreadPoolExecutor(1, name=name) for name in ("same", "same", "same\udc80\n"))
    assert names() == {"same", "same (2)", "same?\n"}
    del one, odd
    wait_until(lambda: names() == {"same (2)"}, "what is gone not to be seen")
    one = pyconc.ThreadPoolExecutor(1, name="same")
    assert names() == {"same", "same (2)"}
    one.shutdown()
    two.shutdown()


def test_a_second_time_changes_nothing_and_what_was_taken_away_comes_back(system):
    with pyconc.ThreadPoolExecutor(1, name="loader"):
        pyconc.instrument(system.exporter, system.into)
        assert "loader" in seen(system)
        for exporter in (system.exporter, None):
            pyconc.uninstrument(exporter)
            pyconc.uninstrument(exporter)
            assert seen(system) == {}
            pyconc.instrument(system.exporter, system.into)
            assert "loader" in seen(system)


def test_executors_come_and_go_while_somebody_looks(system):
    end = threading.Event()

    def make():
        while not end.is_set():
            pyconc.ThreadPoolExecutor(1, name="short")

    threads = [threading.Thread(target=make) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for _ in range(50):
            seen(system)
            pyconc.stats()
    finally:
        end.set()
        for thread in threads:
            thread.join()


def test_what_is_no_registry_or_provider_is_refused(system):
    with pytest.raises(TypeError, match=r"into must be a .* not int"):
        pyconc.instrument(system.exporter, 3)


def test_another_exporter_is_refused():
    for function in (pyconc.instrument, pyconc.uninstrument):
        with pytest.raises(ValueError, match="one of 'opentelemetry', 'prometheus', not 'statsd'"):
            function("statsd")


@pytest.mark.parametrize(
    ("exporter", "package"), [("prometheus", "prometheus_client"), ("opentelemetry", "opentelemetry")]
)
def test_a_package_that_is_missing_is_named(exporter, package, monkeypatch):
    monkeypatch.delitem(sys.modules, f"pyconc._metrics_{exporter}", raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ImportError, match=rf"needs {package[:10]}.*: pip install 'pyconc\[{exporter}\]'"):
        pyconc.instrument(exporter)


def test_by_default_it_is_what_the_program_has_and_the_child_of_a_fork_begins_at_0():
    pytest.importorskip("prometheus_client")
    pytest.importorskip("opentelemetry.sdk.metrics")
    run_script("""
        import os
        import sys
        import pyconc

        assert not {"prometheus_client", "opentelemetry", "pyconc._metrics"} & sys.modules.keys()
        pyconc.instrument("opentelemetry")
        pyconc.instrument("prometheus")

        from opentelemetry import metrics
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from prometheus_client import REGISTRY

        reader = InMemoryMetricReader()
        metrics.set_meter_provider(MeterProvider([reader]))
        pyconc.instrument("opentelemetry")

        def check(submitted):
            assert REGISTRY.get_sample_value("executor_submitted_tasks_total", {"name": "loader"}) == submitted
            (scope,) = reader.get_metrics_data().resource_metrics[0].scope_metrics
            (found,) = [metric for metric in scope.metrics if metric.name == "executor.submitted"]
            assert [point.value for point in found.data.data_points] == [submitted]

        pool = pyconc.ThreadPoolExecutor(1, name="loader")
        pool.submit(abs, 1).result()
        check(1)
        pid = os.fork()
        if pid == 0:
            check(0)
            pool.submit(abs, 1).result()
            check(1)
            pyconc.uninstrument()
            pyconc.instrument("prometheus")
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        check(1)
    """)
