"""An OpenTelemetry span for every call of a pool: a plugin in forty lines.

    python examples/opentelemetry_spans.py --backend multicore    # makes two calls, prints their spans

Needs `pip install opentelemetry-sdk`.  A program that traces anyway needs one line more,
`register(PoolSpans())`; a distribution of your own does it for all programs, with

    [project.entry-points."pools.plugins"]
    opentelemetry = "your_package:plugin"         # plugin = PoolSpans()
"""

import argparse
import os
from pathlib import Path

from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor
from opentelemetry.trace import Span, StatusCode
from opentelemetry.trace import TracerProvider as AnyProvider

from pools_core import MakePool
from pools_core.hookspecs import hookimpl
from pools_core.registry import register


class PoolSpans:
    """Begins a span when a call begins, as a child of the caller's own, and ends it with the call."""

    def __init__(self, provider: AnyProvider | None = None) -> None:
        self.tracer = trace.get_tracer("pools", tracer_provider=provider)
        self.backends: dict[int, str] = {}
        self.spans: dict[tuple[int, int], Span] = {}

    @hookimpl
    def pools_pool_opened(self, pool_id: int, backend: str) -> None:
        self.backends[pool_id] = backend

    @hookimpl
    def pools_pool_closed(self, pool_id: int) -> None:
        self.backends.pop(pool_id, None)

    @hookimpl
    def pools_call_started(self, pool_id: int, call_id: int, tasks: int | None) -> None:
        span = self.tracer.start_span(f"{self.backends.get(pool_id, 'pool')} call")
        span.set_attribute("pools.pool", pool_id)
        if tasks is not None:
            span.set_attribute("pools.tasks", tasks)
        self.spans[pool_id, call_id] = span

    @hookimpl
    def pools_chunk_done(self, pool_id: int, call_id: int, tasks: int, failures: int, seconds: float) -> None:
        span = self.spans.get((pool_id, call_id))
        if span is not None and failures:
            span.add_event("tasks failed", {"tasks": tasks, "failures": failures, "seconds": seconds})

    @hookimpl
    def pools_call_finished(self, pool_id: int, call_id: int, error: str | None) -> None:
        span = self.spans.pop((pool_id, call_id), None)
        if span is not None:
            if error is not None:
                span.set_status(StatusCode.ERROR, error)
            span.end()


def main() -> None:
    """Read the options, make two calls within a span of our own, and print all three."""
    parser = argparse.ArgumentParser(description="Print the spans of two calls.")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    args = parser.parse_args()

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(ConsoleSpanExporter()))
    trace.set_tracer_provider(provider)
    register(PoolSpans())
    files = sorted(Path(os.__file__).parent.glob("*.py"))
    job = trace.get_tracer("program").start_as_current_span("the whole job")
    with job, MakePool(args.backend, config=args.config) as pool:
        pool.map(os.path.getsize, files)
        pool.map(os.path.getsize, [*files, "no such file"], on_error="return")
    provider.shutdown()


if __name__ == "__main__":
    main()
