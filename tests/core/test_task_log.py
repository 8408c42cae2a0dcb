"""The log of tasks: who is first is decided once, whoever else asks at the same moment."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

from pools_core.testing.task_log import first, note, notes, runs

MANY = 8


def test_of_many_threads_at_once_exactly_one_is_first(tmp_path):
    """Also when all of them have left their line before anybody asks."""
    log = str(tmp_path / "log")
    noted = Barrier(MANY)

    def run(_):
        note(log, "word")
        noted.wait(30)
        return first(log, "word")

    with ThreadPoolExecutor(MANY) as threads:
        assert sorted(threads.map(run, range(MANY))) == [False] * (MANY - 1) + [True]
    assert runs(log) == ["word"] * MANY


def test_each_word_of_each_log_has_its_own_first(tmp_path):
    """Retries of one task do not use up the first time of another."""
    logs = [str(tmp_path / name) for name in ("one", "two")]

    assert all(first(log, word) for log in logs for word in ("exit", "3"))
    assert not any(first(log, word) for log in logs for word in ("exit", "3"))


def test_being_first_leaves_no_line(tmp_path):
    """The log still counts executions only."""
    log = str(tmp_path / "log")

    assert first(log, "word")
    assert not first(log, "word")
    assert notes(log) == []


def test_a_line_can_be_left_for_another_process(tmp_path):
    """Such as one that the task has started."""
    log = str(tmp_path / "log")
    note(log, "child", 12)

    assert notes(log) == [("child", 12)]
