"""Prometheus metrics of every pool of a program: a plugin in forty lines.

    python examples/prometheus_metrics.py --backend multicore     # makes two calls, prints the metrics

Needs `pip install prometheus-client`.  A program that serves metrics anyway needs one line more,
`register(PoolMetrics())`; a distribution of your own does it for all programs, with

    [project.entry-points."pools.plugins"]
    prometheus = "your_package:plugin"            # plugin = PoolMetrics()
"""

import argparse
import os
from pathlib import Path

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pools_core import MakePool
from pools_core.hookspecs import hookimpl
from pools_core.registry import register


class PoolMetrics:
    """Counts what happens in pools; hooks never run per task, so neither does this."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self.pools = Gauge("pools_open", "Pools that are open", ["backend"], registry=registry)
        self.running = Gauge("pools_calls_running", "Calls that are under way", registry=registry)
        self.calls = Counter("pools_calls", "Calls that have ended", ["outcome"], registry=registry)
        self.tasks = Counter("pools_tasks", "Tasks that have ended", ["outcome"], registry=registry)
        self.chunks = Histogram(
            "pools_chunk_seconds", "Time that workers took for a chunk", registry=registry
        )
        self.deaths = Counter("pools_worker_deaths", "Workers that died", ["exitcode"], registry=registry)
        self.backends: dict[int, str] = {}

    @hookimpl
    def pools_pool_opened(self, pool_id: int, backend: str) -> None:
        self.backends[pool_id] = backend
        self.pools.labels(backend).inc()

    @hookimpl
    def pools_pool_closed(self, pool_id: int) -> None:
        self.pools.labels(self.backends.pop(pool_id)).dec()

    @hookimpl
    def pools_call_started(self) -> None:
        self.running.inc()

    @hookimpl
    def pools_call_finished(self, error: str | None) -> None:
        self.running.dec()
        self.calls.labels("ok" if error is None else "failed").inc()

    @hookimpl
    def pools_chunk_done(self, tasks: int, failures: int, seconds: float) -> None:
        self.tasks.labels("ok").inc(tasks - failures)
        self.tasks.labels("failed").inc(failures)
        self.chunks.observe(seconds)

    @hookimpl
    def pools_worker_died(self, exitcode: int | None) -> None:
        self.deaths.labels(str(exitcode)).inc()


def main() -> None:
    """Read the options, ask for the size of files, one of which is not there; print what a scrape gets."""
    parser = argparse.ArgumentParser(description="Print the metrics of two calls.")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    args = parser.parse_args()

    files = sorted(Path(os.__file__).parent.glob("*.py"))
    register(PoolMetrics())
    with MakePool(args.backend, config=args.config) as pool:
        pool.map(os.path.getsize, files)
        pool.map(os.path.getsize, [*files, "no such file"], on_error="return")
    print(generate_latest().decode())


if __name__ == "__main__":
    main()
