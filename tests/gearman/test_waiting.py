"""How the caller of a cluster waits for what comes."""

from __future__ import annotations

from functools import partial

import pytest

from pools_core.testing.gate import Gate, pass_gate


@pytest.mark.parametrize("words", [["a"], ["a", "b"]], ids=len)
def test_whoever_waits_is_told_how_much_is_under_way(cluster, monkeypatch, words):
    """Since it is for a few only that it stays awake; see ``Spinner.select``."""
    cluster.start_node()
    with cluster.pool() as pool, Gate() as gate:
        spinner = pool._pump.engine._reading._spinner
        assert spinner.most > 0
        select = spinner.select

        def watched(selector, timeout, out):
            if out == len(words):
                gate.open()  # so no task ends before
            return select(selector, timeout, out)

        monkeypatch.setattr(spinner, "select", watched)
        assert len(pool.map(partial(pass_gate, gate.address), words, chunksize=1)) == len(words)
