"""The two plugins in examples/, with the libraries that they are for; tests/test_examples.py runs them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from pools_core import MakePool
from pools_core.registry import register, unregister
from pools_core.testing import tasks

EXAMPLES = Path(__file__).parents[2] / "examples"


def example(name):
    """Import an example."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def listening():
    """What registers plugins for one test."""
    added = []

    def listen(plugin):
        register(plugin)
        added.append(plugin)

    yield listen
    for plugin in added:
        unregister(plugin)


@pytest.mark.parametrize("backend", ["singlecore", "multicore"])
def test_prometheus_metrics(listening, backend):
    """What a scrape gets after a few calls."""
    client = pytest.importorskip("prometheus_client", reason="prometheus-client is not installed")
    registry = client.CollectorRegistry()
    listening(example("prometheus_metrics").PoolMetrics(registry))

    with MakePool(backend) as pool:
        assert registry.get_sample_value("pools_open", {"backend": backend}) == 1
        pool.map(tasks.square, range(100))
        pool.map(tasks.raise_on_odd, range(10), on_error="return")
        with pytest.raises(tasks.Misbehaved):
            pool.apply(tasks.go_wrong, ("raise",))
        if backend == "multicore":
            with pytest.raises(RuntimeError):
                pool.apply(tasks.go_wrong, ("SIGKILL",))

    deaths = 1 if backend == "multicore" else 0
    expected = {
        ("pools_open", ("backend", backend)): 0,
        ("pools_calls_running",): 0,
        ("pools_calls_total", ("outcome", "ok")): 2,
        ("pools_calls_total", ("outcome", "failed")): 1 + deaths,
        ("pools_tasks_total", ("outcome", "ok")): 105,
        ("pools_tasks_total", ("outcome", "failed")): 6,
    }
    found = {(name, *labels): registry.get_sample_value(name, dict(labels)) for name, *labels in expected}
    assert found == expected
    assert registry.get_sample_value("pools_worker_deaths_total", {"exitcode": "-9"}) == (deaths or None)


@pytest.mark.parametrize("backend", ["singlecore", "multicore"])
def test_opentelemetry_spans(listening, backend):
    """A span for each call, within the caller's own."""
    pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    memory, provider = InMemorySpanExporter(), TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(memory))
    plugin = example("opentelemetry_spans").PoolSpans(provider)
    listening(plugin)

    with provider.get_tracer("test").start_as_current_span("job"), MakePool(backend) as pool:
        pool.map(tasks.square, range(100))
        pool.map(tasks.raise_on_odd, range(4), on_error="return")
        with pytest.raises(tasks.Misbehaved):
            pool.apply(tasks.go_wrong, ("raise",))
    provider.shutdown()

    whole, partly, failed, job = memory.get_finished_spans()
    assert [span.name for span in (whole, partly, failed)] == [f"{backend} call"] * 3
    assert {span.parent.span_id for span in (whole, partly, failed)} == {job.context.span_id}
    assert whole.attributes["pools.tasks"] == 100
    assert sum(event.attributes["failures"] for event in partly.events) == 2
    assert "Misbehaved" in failed.status.description
    assert plugin.spans == plugin.backends == {}
