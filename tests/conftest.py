"""What holds for every test: nothing is left behind, and nothing waits for ever."""

from __future__ import annotations

import pytest

from pools_core.testing.leaks import nothing_left_behind


@pytest.fixture(autouse=True)
def _leaves_nothing_behind():
    """Each test ends with the children, threads, descriptors and shared memory that it began with."""
    with nothing_left_behind():
        yield
