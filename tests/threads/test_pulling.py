"""How much of the input is pulled before it is known how long tasks take."""

from __future__ import annotations

import pytest

from pools_core import MakePool
from pools_core.map_flow import AT_FIRST
from pools_core.testing.gate import Gate, pass_gate


@pytest.mark.parametrize(("workers", "expected"), [(2, 6), (20, 20), (5, AT_FIRST)])
def test_not_much_more_is_pulled_than_there_are_workers(workers, expected):
    """Each gets one, and some wait if there are few."""
    pulled = []
    with Gate() as gate, MakePool("threads", n_jobs=workers) as pool:

        def source():
            for number in range(1000):
                pulled.append(number)
                yield gate.address

        results = pool.imap(pass_gate, source())
        gate.wait_for(workers)
        assert len(pulled) == expected
        gate.open()
        assert len(list(results)) == len(pulled) == 1000
