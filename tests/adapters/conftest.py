"""What holds for the tests of adapters: each ends by a deadline, on each backend that it names."""

from __future__ import annotations

import pytest

from pools_core import MakePool
from pools_core.testing.waiting import deadline

SECONDS = 90


@pytest.fixture(scope="module", autouse=True)
def _helpers_that_live_on():
    """Begin what lives longer than a test; whoever was here before may have ended it."""
    for method in ("fork", "forkserver"):
        with MakePool("multicore", n_jobs=1, start_method=method) as pool:
            pool.map(abs, [1])


@pytest.fixture(autouse=True)
def _ends_by_a_deadline(_leaves_nothing_behind):
    with deadline(SECONDS):
        yield


@pytest.fixture(params=["singlecore", "multicore"])
def pool(request, _ends_by_a_deadline):
    """A pool of each of the two kinds that differ most; ended after the test."""
    options = {} if request.param == "singlecore" else {"n_jobs": 2}
    pool = MakePool(request.param, **options)
    yield pool
    pool.terminate()
    pool.join()


@pytest.fixture
def processes(_ends_by_a_deadline):
    """A pool of two processes."""
    pool = MakePool("multicore", n_jobs=2)
    yield pool
    pool.terminate()
    pool.join()
