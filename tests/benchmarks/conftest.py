"""What a process keeps once it has used a pool, or drawn a chart, is there before the first test looks."""

from __future__ import annotations

import importlib.util

import pytest

from pools_core import MakePool


@pytest.fixture(autouse=True, scope="module")
def _kept_for_good(tmp_path_factory):
    """Start a pool's helpers, and let matplotlib open its fonts."""
    import pools_multicore
    from benchmarks.report import Report
    from benchmarks.runner import Samples, Settings

    with MakePool("multicore", n_jobs=1) as pool:
        pool.apply(abs, (1,))
    if importlib.util.find_spec("matplotlib") is not None:
        from benchmarks.plot import draw

        samples = [Samples(name, "pools", 1, 1, [1.0]) for name in ("apply", "growth_tasks_1e3")]
        samples.append(Samples("apply", "mpire", 1, 1, [1.0]))
        report = Report.begun([], Settings(1, 1, quick=True, limit=1)).with_samples(samples)
        draw(report, tmp_path_factory.mktemp("first") / "first.svg")
    yield
    pools_multicore.stop_forkserver()
