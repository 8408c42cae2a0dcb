"""The forkserver and its like live until the program ends: here, from a module's first test to its last."""

from __future__ import annotations

import pytest

from pools_core import MakePool


@pytest.fixture(autouse=True, scope="module")
def _helper_processes():
    """Start them before the first test looks at what there is, and stop them after the last."""
    import pools_multicore

    for start_method in ("fork", "forkserver", "spawn"):
        with MakePool("multicore", n_jobs=1, start_method=start_method) as pool:
            pool.apply(abs, (1,))
    yield
    pools_multicore.stop_forkserver()
