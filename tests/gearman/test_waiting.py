"""How the caller of a cluster waits for what comes."""

from __future__ import annotations

import pytest


@pytest.mark.parametrize(("cpus", "awake"), [(2, True), (1, False)])
def test_the_answer_of_a_single_task_is_waited_for_awake(cluster, monkeypatch, cpus, awake):
    """But not with as many chunks on their way as there are CPUs."""
    cluster.start_node()
    with cluster.pool() as pool:
        engine = pool._pump.engine
        engine._cpus = cpus
        sleep, waits = engine._reading.sleep, []

        def watched(timeout, *, awake):
            waits.append((len(engine._out), awake))
            return sleep(timeout, awake=awake)

        monkeypatch.setattr(engine._reading, "sleep", watched)
        assert pool.apply(abs, (-3,)) == 3
    assert {how for out, how in waits if out == 1} == {awake}
