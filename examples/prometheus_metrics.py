"""Prometheus metrics of every pool of a program: a plugin in forty lines.

    python examples/prometheus_metrics.py         # makes a few calls, then prints the metrics

Needs `pip install prometheus-client`.  A program that serves metrics anyway needs one line more,
`register(PoolMetrics())`; a distribution of your own does it for all programs, with

    [project.entry-points."pools.plugins"]
    prometheus = "your_package:plugin"            # plugin = PoolMetrics()
"""

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from pools_core import MakePool
from pools_core.hookspecs import hookimpl
from pools_core.registry import register


class PoolMetrics:
    """Counts what happens in pools; hooks never run per task, so neither does this."""

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        where = {"registry": registry}
        self.pools = Gauge("pools_open", "Pools that are open", ["backend"], **where)
        self.running = Gauge("pools_calls_running", "Calls that are under way", **where)
        self.calls = Counter("pools_calls", "Calls that have ended", ["outcome"], **where)
        self.tasks = Counter("pools_tasks", "Tasks that have ended", ["outcome"], **where)
        self.chunks = Histogram("pools_chunk_seconds", "Time that workers spent on a chunk", **where)
        self.deaths = Counter("pools_worker_deaths", "Workers that died", ["exitcode"], **where)
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
    """Make a few calls, one of which fails, and print what a scrape would get."""
    register(PoolMetrics())
    with MakePool() as pool:
        pool.map(abs, range(-100, 100))
        pool.map(int, ["1", "2", "three"], on_error="return")
    print(generate_latest().decode())


if __name__ == "__main__":
    main()
