"""Insights: what is recorded, what is told, and in which forms.  The clock is ours; nothing waits."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from dataclasses import FrozenInstanceError, replace

import pytest

from pools_core import insights_recorder as module
from pools_core.calls import WorkerTimes
from pools_core.insights import PARTS, ChunkSizes, Insights, SlowTask, Span, WorkerInsights
from pools_core.insights_mpire import mpire_insights
from pools_core.insights_recorder import MOST_SPANS, InsightsRecorder
from pools_core.insights_report import human


class Clock:
    """A clock that moves when it is told to, by binary fractions, so that sums are exact."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """Return the clock of the recorder."""
    return Clock()


@pytest.fixture
def recorder(clock) -> InsightsRecorder:
    """Return a recorder that has recorded nothing."""
    return InsightsRecorder(clock)


def times(worker=0, waiting=0.0, init=0.0, working=0.0, tasks=1, slowest=()) -> WorkerTimes:
    """Return what a worker measured."""
    return WorkerTimes(worker, waiting, init, working, tasks, tuple(slowest))


def a_run(recorder: InsightsRecorder, clock: Clock) -> Insights:
    """Return the insights of two workers that did a little of everything, in 4 seconds."""
    clock.now += 0.5
    recorder.worker_started(0, 0.5)
    recorder.worker_started(1, 0.25)
    recorder.sent(2, 1000)
    recorder.sent(4, 2000)
    clock.now += 1.5
    recorder.measured(times(0, 0.25, 0.25, 1.0, 2, [(0.75, 1, "(1,)"), (0.25, 0, "(0,)")]), 0)
    recorder.measured(times(1, 0.125, 0.125, 0.5, 3, [(0.5, 2, "(4,)")]), 2, last=False)
    recorder.received(500)
    recorder.task_failed()
    recorder.retried()
    clock.now += 1.0
    recorder.measured(times(1, 0.5, 0.0, 0.5, 1, [(0.5, 3, "(5,)")]), 2)
    recorder.died()
    clock.now += 1.0
    recorder.worker_exited(0, 0.25)
    return recorder.snapshot()


def made(*workers: WorkerInsights, **others) -> Insights:
    """Return insights of those workers, and zeros."""
    zeros = Insights(workers, (), 0, 0, 0, ChunkSizes(0, 0, 0, 0), 0, 0, 0, 0, 0.0, ())
    return replace(zeros, **others)


def one_worker(number=0, **parts) -> WorkerInsights:
    """Return a worker that spent so many seconds on some parts, none on the others."""
    return WorkerInsights(number, **{**dict.fromkeys(PARTS, 0.0), "tasks": 1, "chunks": 1, **parts})


REPORTS = {
    "worker_started": (0, 1.0),
    "worker_exited": (0, 1.0),
    "measured": (times(), 0),
    "sent": (1, 1),
    "received": (1,),
    "task_failed": (),
    "died": (),
    "retried": (),
    "snapshot": (),
    "reset": (),
}
"""Everything that can be said to a recorder, with arguments."""


# --- recording ------------------------------------------------------------------------------------


def test_each_workers_time_tasks_and_chunks_are_added_up(recorder, clock):
    """Parts of a chunk count towards the worker that ran them; the chunk counts once, when finished."""
    told = a_run(recorder, clock)

    assert told.workers == (
        WorkerInsights(0, 0.5, 0.25, 0.25, 1.0, 0.25, tasks=2, chunks=1),
        WorkerInsights(1, 0.25, 0.125, 0.625, 1.0, 0.0, tasks=4, chunks=1),
    )
    assert [one.total for one in told.workers] == [2.25, 2.0]


def test_the_events_of_the_pool_are_counted(recorder, clock):
    """Each event is counted under its own name."""
    told = a_run(recorder, clock)

    assert (told.bytes_sent, told.bytes_received) == (3000, 500)
    assert (told.failures, told.retries, told.deaths) == (1, 1, 1)

    recorder.task_failed()
    recorder.died()
    recorder.died()
    told = recorder.snapshot()
    assert (told.failures, told.retries, told.deaths) == (2, 1, 3)


def test_workers_are_listed_by_number(recorder):
    """Whoever reports first."""
    for number in (3, 0, 2):
        recorder.measured(times(number), 0)

    assert [one.worker for one in recorder.snapshot().workers] == [0, 2, 3]


def test_a_worker_that_replaces_another_adds_to_its_account(recorder):
    """The table has one row per place in the pool, however often its worker was replaced."""
    for seconds in (0.5, 0.25):
        recorder.worker_started(0, seconds)
        recorder.worker_exited(0, seconds)

    (worker,) = recorder.snapshot().workers
    assert (worker.start_up, worker.exit) == (0.75, 0.75)


def test_the_seconds_covered_end_with_the_last_event(recorder, clock):
    """Printing them after lunch must not make the workers look lazy."""
    told = a_run(recorder, clock)
    assert told.seconds == 4.0

    clock.now += 3600
    assert recorder.snapshot() == told


@pytest.mark.parametrize("name", sorted(REPORTS.keys() - {"snapshot", "reset"}))
def test_every_event_counts_as_the_last(recorder, clock, name):
    """Whatever it was, the time until then is covered."""
    clock.now += 2.0
    getattr(recorder, name)(*REPORTS[name])

    assert recorder.snapshot().seconds == 2.0


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        ([], ChunkSizes(0, 0, 0, 0)),
        ([7], ChunkSizes(7, 7, 7, 1)),
        ([1, 2], ChunkSizes(1, 1, 2, 2)),
        ([5, 1, 100], ChunkSizes(1, 5, 100, 3)),
        ([1, 1, 1, 1, 64], ChunkSizes(1, 1, 64, 5)),
        ([3, 3, 9, 9], ChunkSizes(3, 3, 9, 4)),
        ([16, 9, 9, 9], ChunkSizes(9, 9, 16, 4)),
    ],
)
def test_chunk_sizes_are_summed_up(recorder, sizes, expected):
    """The median is a size that occurred."""
    for size in sizes:
        recorder.sent(size, 0)

    assert recorder.snapshot().chunk_sizes == expected


def test_the_five_longest_tasks_are_kept_longest_first(recorder):
    """Over all workers and chunks; the index is the one in the call's input."""
    for chunk, seconds in enumerate([4.0, 1.0, 8.0, 2.0, 16.0, 32.0, 0.5]):
        recorder.measured(times(chunk % 2, slowest=[(seconds, 3, f"({chunk},)")]), chunk * 10)

    told = recorder.snapshot().slowest
    assert [task.seconds for task in told] == [32.0, 16.0, 8.0, 4.0, 2.0]
    assert told[0] == SlowTask(32.0, 53, "(5,)", 1)
    assert told[2] == SlowTask(8.0, 23, "(2,)", 0)


def test_of_equally_long_tasks_the_first_stay(recorder):
    """So that the same run tells the same."""
    recorder.measured(times(slowest=[(1.0, index, "") for index in range(9)]), 0)

    assert [task.index for task in recorder.snapshot().slowest] == [0, 1, 2, 3, 4]


def test_a_snapshot_does_not_change(recorder, clock):
    """It may be taken in the middle of a call, and compared with a later one."""
    first = a_run(recorder, clock)
    copy = Insights.from_dict(first.to_dict())

    second = a_run(recorder, clock)

    assert first == copy
    assert second.tasks == 2 * first.tasks
    with pytest.raises(FrozenInstanceError):
        first.tasks = 0


def test_after_a_reset_it_is_as_new(recorder, clock):
    """The time counts from the reset, too."""
    a_run(recorder, clock)
    recorder.reset()
    assert recorder.snapshot() == InsightsRecorder(clock).snapshot()

    assert a_run(recorder, clock) == a_run(InsightsRecorder(clock), clock)


@pytest.mark.parametrize("name", REPORTS)
def test_everything_happens_under_the_recorders_own_lock(recorder, name):
    """Races cannot be provoked at will; that the lock is taken, once, can be seen."""

    class Counted:
        entered = 0
        lock = recorder._lock

        def __enter__(self):
            self.entered += 1
            return self.lock.__enter__()

        def __exit__(self, *error):
            return self.lock.__exit__(*error)

    recorder._lock = counted = Counted()
    getattr(recorder, name)(*REPORTS[name])

    assert counted.entered == 1
    assert not counted.lock.locked()


def test_every_public_method_is_among_those():
    """A new one must not be forgotten above."""
    assert {name for name in vars(InsightsRecorder) if not name.startswith("_")} == set(REPORTS)


def test_a_workers_times_travel():
    """They come over the wire."""
    sent = times(1, 0.5, 0.25, 2.0, 3, [(0.5, 0, "(1,)")])
    assert pickle.loads(pickle.dumps(sent)) == sent


def test_importing_loads_nothing_that_recording_has_no_use_for():
    """A pool records without what a table, a plot or JSON needs."""
    program = (
        "import sys; import pools_core.calls, threading; before = set(sys.modules)\n"
        "import pools_core.insights_recorder\n"
        "print(*(set(sys.modules) - before))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)

    assert "pools_core.insights_recorder" in done.stdout
    assert not {"json", "matplotlib", "numpy", "rich", "statistics", "pathlib"} & set(done.stdout.split())


# --- the timeline ---------------------------------------------------------------------------------


def test_spans_lie_where_the_time_was_spent(recorder, clock):
    """In seconds since the insights began; waiting is where there is none."""
    assert a_run(recorder, clock).spans == (
        Span(0, "start_up", 0.0, 0.5),
        Span(0, "init", 0.75, 1.0),
        Span(0, "working", 1.0, 2.0),
        Span(0, "exit", 3.75, 4.0),
        Span(1, "start_up", 0.25, 0.5),
        Span(1, "init", 1.375, 1.5),
        Span(1, "working", 1.5, 2.0),
        Span(1, "working", 2.5, 3.0),
    )


def test_reports_that_are_read_late_do_not_overlap(recorder, clock):
    """The receiver was busy for a while: the first of the reports must then be older than it looks."""
    clock.now += 4.0
    for _ in range(3):
        recorder.measured(times(0, working=1.0), 0)

    assert [(span.start, span.end) for span in recorder.snapshot().spans] == [(1, 2), (2, 3), (3, 4)]


def test_what_began_before_the_insights_is_shown_from_their_beginning(recorder, clock):
    """A reset in the middle of a task; its time counts in full."""
    clock.now += 1.0
    recorder.measured(times(0, init=2.0, working=3.0), 0)
    told = recorder.snapshot()

    assert told.spans == (Span(0, "working", 0.0, 1.0),)
    assert (told.init, told.working) == (2.0, 3.0)


def test_a_part_that_took_no_time_has_no_span(recorder):
    """There would be nothing to draw."""
    recorder.worker_started(0, 0.0)
    recorder.measured(times(0, waiting=0.5), 0)
    recorder.worker_exited(0, 0.0)

    assert recorder.snapshot().spans == ()


@pytest.mark.parametrize("gap", [0.0, 0.125, 2.0])
def test_the_timeline_is_bounded(recorder, clock, monkeypatch, gap):
    """Neighbours are merged, whatever lies between; the sums know nothing of it."""
    monkeypatch.setattr(module, "MOST_SPANS", 50)
    for number in range(3000):
        clock.now += 0.5 + gap
        recorder.measured(times(number % 3, init=0.125, working=0.25), 0)
        assert recorder._timeline._count <= 50
    told = recorder.snapshot()

    assert 3 <= len(told.spans) <= 50
    assert (told.init, told.working) == (3000 * 0.125, 3000 * 0.25)
    assert_in_order(told)


def test_a_long_gap_outlives_the_merging(recorder, clock, monkeypatch):
    """What is merged first is what no picture could show."""
    monkeypatch.setattr(module, "MOST_SPANS", 50)
    for pause in (0.0, 1000.0):
        clock.now += pause
        for _ in range(100):
            clock.now += 0.5
            recorder.measured(times(working=0.25), 0)
    told = recorder.snapshot()

    gaps = [after.start - before.end for before, after in zip(told.spans, told.spans[1:], strict=False)]
    assert max(gaps) == 1000.25


def test_a_long_span_of_another_kind_outlives_the_merging(recorder, clock, monkeypatch):
    """A slow ``worker_init`` amid many short chunks is what a timeline is looked at for."""
    monkeypatch.setattr(module, "MOST_SPANS", 50)
    for number in range(200):
        init = 100.0 if number == 70 else 0.0
        clock.now += 0.25 + init
        recorder.measured(times(init=init, working=0.25), 0)

    (init,) = [span for span in recorder.snapshot().spans if span.kind == "init"]
    assert (init.start, init.end) == (17.5, 117.5)


def test_what_is_merged_is_of_the_kind_that_took_longer(recorder, clock, monkeypatch):
    """Many short inits between the chunks do not make the worker look as if it did nothing else."""
    monkeypatch.setattr(module, "MOST_SPANS", 50)
    for _ in range(200):
        clock.now += 0.5
        recorder.measured(times(init=0.125, working=0.375), 0)

    merged = [span for span in recorder.snapshot().spans if span.end - span.start >= 0.5]
    assert merged
    assert {span.kind for span in merged} == {"working"}


def test_no_more_is_merged_than_need_be(recorder, clock, monkeypatch):
    """Room is made for the closest neighbours' sake, not by throwing the whole line together."""
    monkeypatch.setattr(module, "MOST_SPANS", 50)
    for number in range(17):
        clock.now += 2.25 if number != 8 else 20.25
        for worker in range(3):
            recorder.measured(times(worker, working=0.25), 0)
    recorder.worker_exited(0, 0.0)

    starts = [(span.worker, span.start, span.end) for span in recorder.snapshot().spans]
    assert starts == [(worker, *ends) for worker in range(3) for ends in ((2.0, 18.0), (38.0, 56.25))]


def test_a_copy_of_the_timeline_stands_still(recorder, clock):
    """It is made into spans outside the lock, while the pool goes on."""
    told = a_run(recorder, clock)
    copy = recorder._timeline.copy()
    a_run(recorder, clock)

    assert copy.spans(100.0) == told.spans


def test_a_short_timeline_is_not_merged(recorder, clock):
    """Only beyond the bound."""
    for _ in range(1000):
        clock.now += 0.25
        recorder.measured(times(working=0.25), 0)

    assert len(recorder.snapshot().spans) == 1000
    assert MOST_SPANS == 20_000


def assert_in_order(told: Insights) -> None:
    """Spans of a worker follow each other, within the time that is covered."""
    for before, after in zip(told.spans, told.spans[1:], strict=False):
        assert before.worker < after.worker or before.end <= after.start
    assert all(0 <= span.start < span.end <= told.seconds for span in told.spans)


# --- sums and shares ------------------------------------------------------------------------------


def test_sums_are_those_of_the_workers(recorder, clock):
    """Whatever is told in all is what the rows add up to."""
    told = a_run(recorder, clock)

    for part in PARTS:
        assert getattr(told, part) == sum(getattr(one, part) for one in told.workers) > 0
    assert told.total == sum(one.total for one in told.workers) == 4.25
    assert told.tasks == sum(one.tasks for one in told.workers) == 6
    assert told.chunks == sum(one.chunks for one in told.workers) == told.chunk_sizes.count == 2
    assert_in_order(told)


def test_shares_add_up_to_one(recorder, clock):
    """Each is its part of the total."""
    told = a_run(recorder, clock)

    assert list(told.ratios) == list(PARTS)
    assert sum(told.ratios.values()) == pytest.approx(1.0)
    assert told.ratios["working"] == pytest.approx(2.0 / 4.25)
    assert told.ratios["exit"] == pytest.approx(0.25 / 4.25)


@pytest.mark.parametrize("told", [made(), made(one_worker())], ids=["no worker", "no time"])
def test_shares_of_nothing_are_zero(told):
    """Rather than a division by zero."""
    assert told.ratios == dict.fromkeys(PARTS, 0.0)
    assert told.total == 0


def test_the_repr_leaves_out_the_timeline(recorder, clock):
    """A notebook shows it; twenty thousand spans would be no help."""
    told = a_run(recorder, clock)
    assert "tasks=6" in repr(told)
    assert "Span" not in repr(told)


# --- as dict and JSON -----------------------------------------------------------------------------


def test_a_dict_holds_numbers_and_text_only(recorder, clock):
    """What JSON would make of it is just the same."""
    told = a_run(recorder, clock)

    data = told.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert data["tasks"] == 6
    assert data["workers"][1]["waiting"] == 0.625
    assert data["slowest"][0] == {"seconds": 0.75, "index": 1, "arguments": "(1,)", "worker": 0}
    assert data["chunk_sizes"] == {"smallest": 2, "median": 2, "largest": 4, "count": 2}
    assert data["spans"][0] == {"worker": 0, "kind": "start_up", "start": 0.0, "end": 0.5}
    assert data["ratios"] == told.ratios


@pytest.mark.parametrize("fill", [True, False])
def test_there_and_back_it_is_the_same(recorder, clock, fill):
    """Through a dict and through JSON, floats to the last bit."""
    if fill:
        a_run(recorder, clock)
        recorder.measured(times(2, 0.1, 1 / 3, 1e-9), 0)
    told = recorder.snapshot()

    assert Insights.from_dict(told.to_dict()) == told
    assert Insights.from_dict(json.loads(told.to_json())) == told


def test_json_is_one_line_unless_asked_otherwise(recorder, clock):
    """For logs the one, for people the other."""
    told = a_run(recorder, clock)

    assert "\n" not in told.to_json()
    assert told.to_json(indent=2).startswith('{\n  "workers": [')
    assert json.loads(told.to_json(indent=2)) == json.loads(told.to_json())


def test_what_a_later_version_added_is_left_out(recorder, clock):
    """Stored insights stay readable."""
    told = a_run(recorder, clock)
    data = {**told.to_dict(), "mood": "good"}
    data["workers"][0]["mood"] = "better"

    assert Insights.from_dict(data) == told


@pytest.mark.parametrize("missing", ["tasks", "workers", "chunk_sizes", "spans"])
def test_what_is_missing_is_named(recorder, missing):
    """Some other JSON was read by mistake."""
    data = recorder.snapshot().to_dict()
    del data[missing]

    with pytest.raises(ValueError, match=f"no insights: '{missing}' is missing"):
        Insights.from_dict(data)


def test_what_is_missing_from_a_worker_is_named(recorder, clock):
    """However deep it lies."""
    data = a_run(recorder, clock).to_dict()
    del data["workers"][0]["exit"]

    with pytest.raises(ValueError, match="'exit' is missing"):
        Insights.from_dict(data)


# --- as a table -----------------------------------------------------------------------------------


def test_the_table_has_a_row_per_worker_and_one_for_all(recorder, clock):
    """Numbers in columns under their names."""
    lines = str(a_run(recorder, clock)).splitlines()

    assert lines[0] == "Insights: 2 workers, 6 tasks, 2 chunks, 4.000 s; times in seconds"
    cells = [line.split() for line in lines[2:9]]
    assert cells[0] == ["worker", "tasks", "chunks", "start-up", *PARTS[1:], "total"]
    assert cells[2] == ["0", "2", "1", "0.500", "0.250", "0.250", "1.000", "0.250", "2.250"]
    assert cells[3] == ["1", "4", "1", "0.250", "0.125", "0.625", "1.000", "0.000", "2.000"]
    assert cells[5] == ["all", "6", "2", "0.750", "0.375", "0.875", "2.000", "0.250", "4.250"]
    assert cells[6] == ["share", "17.6%", "8.8%", "20.6%", "47.1%", "5.9%"]


def test_columns_are_aligned(recorder, clock):
    """Whatever the widths of the numbers."""
    recorder.measured(times(10, working=123_456.0, tasks=10**6), 0)
    lines = str(a_run(recorder, clock)).splitlines()[2:8]

    assert len({len(line) for line in lines}) == 1


def test_the_table_tells_the_rest(recorder, clock):
    """Chunk sizes, bytes, what went wrong, and the longest tasks in order."""
    text = str(a_run(recorder, clock))

    assert "Chunks sent: 2 of 2 to 4 tasks, median 2\n" in text
    assert "Data: 3.0 kB sent, 500 B received\n" in text
    assert "Failures: 1, retries: 1, deaths: 1\n" in text
    longest = text[text.index("Longest tasks") :].splitlines()[1:5]
    assert longest == [
        "  0.750 s  task 1 on worker 0: (1,)",
        "  0.500 s  task 4 on worker 1: (4,)",
        "  0.500 s  task 5 on worker 1: (5,)",
        "  0.250 s  task 0 on worker 0: (0,)",
    ]


def test_one_of_each_is_singular_and_one_size_is_no_range(recorder):
    """It is read by people."""
    recorder.sent(8, 0)
    recorder.measured(times(working=1.0), 0)
    text = str(recorder.snapshot())

    assert text.startswith("Insights: 1 worker, 1 task, 1 chunk, ")
    assert "Chunks sent: 1 of 8 tasks\n" in text


def test_nothing_has_run():
    """A pool without insights, or without a call yet."""
    assert str(made()) == "Insights: nothing has run yet"


def test_workers_without_tasks_are_told_too(recorder, clock):
    """Started, and nothing more: no slow task, no chunk, and no hint that divides by zero."""
    clock.now += 1.0
    recorder.worker_started(0, 0.0)
    text = str(recorder.snapshot())

    assert "0 tasks" in text
    assert "Longest" not in text
    assert "Chunks" not in text
    assert "Hint" not in text


def test_no_argument_can_colour_or_break_the_table():
    """A ``repr`` may return anything."""
    nasty = SlowTask(1.0, 0, "\x1b[31mred\nline\ttab\udcff\x9b" + "x" * 100, 0)
    text = str(made(one_worker(working=1.0), slowest=(nasty,)))

    (line,) = [line for line in text.splitlines() if "task 0" in line]
    assert "[31mred line tab x" in line
    assert line.endswith("x...")
    assert len(line) < 100
    assert text.replace("\n", "").isprintable()
    text.encode()


def test_a_big_cluster_is_shown_in_part():
    """All of it is in the sums, and in ``workers``."""
    lines = str(made(*(one_worker(number, working=1.0) for number in range(1100)))).splitlines()

    assert len(lines) < 100
    assert "+1,036" in lines
    assert "1,100.000" in next(line for line in lines if line.strip().startswith("all"))


@pytest.mark.parametrize(
    ("part", "advice"),
    [
        ("start_up", "on start-up: make one pool"),
        ("init", "on init: keep_alive=True"),
        ("waiting", "on waiting: give workers more at a time"),
        ("exit", "on exit: keep_alive=True"),
    ],
)
def test_little_work_is_hinted_at_with_what_to_do(part, advice):
    """One line at the end, about what costs most."""
    text = str(made(one_worker(working=7.0, **{part: 3.0}), one_worker(1, working=7.0)))
    assert "Hint" not in text  # 82 % of the time was work

    hint = str(made(one_worker(working=7.0, **{part: 3.0}))).splitlines()[-1]
    assert hint.startswith("Hint: 70.0% of the time was spent working, 30.0% ")
    assert advice in hint


@pytest.mark.parametrize(("working", "hinted"), [(8.0, False), (7.99, True)])
def test_the_hint_begins_under_eighty_percent(working, hinted):
    """Exactly there."""
    told = made(one_worker(working=working, waiting=10.0 - working))
    assert ("Hint" in str(told)) is hinted


def test_uneven_work_is_told_apart_from_too_little():
    """Larger chunks would make it worse."""
    even = made(*(one_worker(number, working=1.0, waiting=1.0) for number in range(4)))
    uneven = made(
        one_worker(working=8.0), *(one_worker(number, working=1.0, waiting=7.0) for number in (1, 2))
    )

    assert "larger chunk_size" in str(even)
    assert "smaller chunk_size" in str(uneven)


@pytest.mark.parametrize(
    ("nbytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1234, "1.2 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999, "1.0 MB"),
        (5 * 10**9, "5.0 GB"),
        (7 * 10**12, "7.0 TB"),
        (3 * 10**15, "3.0 PB"),
        (4 * 10**18, "4,000.0 PB"),
    ],
)
def test_bytes_for_people(nbytes, text):
    """In the unit in which they are short."""
    assert human(nbytes) == text


# --- as a picture ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def _matplotlib(tmp_path_factory):
    """Skip without matplotlib; let it open, before any test looks, the fonts that it keeps open for good."""
    pytest.importorskip("matplotlib")
    for suffix in ("svg", "png", "pdf"):
        made(one_worker(working=1.0), seconds=1.0).plot(tmp_path_factory.mktemp("first") / f"first.{suffix}")


needs_matplotlib = pytest.mark.usefixtures("_matplotlib")


@needs_matplotlib
@pytest.mark.parametrize(("suffix", "magic"), [(".svg", b"<?xml"), (".png", b"\x89PNG"), (".PDF", b"%PDF")])
def test_a_plot_is_written_as_its_suffix_says(recorder, clock, tmp_path, suffix, magic):
    """The path is returned; text and path objects will both do."""
    told = a_run(recorder, clock)
    path = tmp_path / f"timeline{suffix}"

    assert told.plot(path) == path
    assert path.read_bytes().startswith(magic)
    assert told.plot(str(path)) == path


@needs_matplotlib
def test_a_plot_names_workers_kinds_and_axes(recorder, clock, tmp_path):
    """Every worker has a line, every kind its colour and its entry in the legend."""
    recorder.measured(times(7, working=0.5), 0)
    svg = a_run(recorder, clock).plot(tmp_path / "timeline.svg").read_text()

    for text in ("worker 0", "worker 1", "worker 7", "workers", "time since the insights began (seconds)"):
        assert f"<!-- {text} -->" in svg
    for text in ("start-up", "init", "working", "exit", "waiting"):
        assert f"<!-- {text} -->" in svg
    assert "worker 2" not in svg
    assert "<!-- 3 workers, 7 tasks, 53% working -->" in svg


def bars_of(told: Insights) -> dict[tuple[int, str], list[tuple[float, float]]]:
    """Return where a plot's bars lie: row and colour, and for each start and end."""
    from matplotlib.colors import to_hex
    from matplotlib.figure import Figure

    from pools_core.insights_plot import _draw_bars

    axes = Figure().add_subplot()
    _draw_bars(axes, told)
    found = {}
    for bars in axes.collections:
        boxes = [path.get_extents() for path in bars.get_paths()]
        key = (round(boxes[0].y0 + boxes[0].y1) // 2, to_hex(bars.get_facecolor()[0]))
        found[key] = [(box.x0, box.x1) for box in boxes]
    return found


@needs_matplotlib
def test_each_span_is_a_bar_of_its_kinds_colour(recorder, clock):
    """The picture says what the spans say."""
    from pools_core.insights_plot import COLOURS

    told = a_run(recorder, clock)
    expected: dict = {}
    for span in told.spans:
        expected.setdefault((span.worker, COLOURS[span.kind]), []).append((span.start, span.end))

    assert bars_of(told) == expected
    assert len(set(COLOURS.values())) == len(COLOURS) == 4


@needs_matplotlib
@pytest.mark.parametrize(("workers", "least", "most"), [(0, 400, 500), (16, 900, 1000), (3000, 4000, 4600)])
def test_a_plot_has_a_size_that_can_be_read(tmp_path, workers, least, most):
    """It grows with the workers, but not beyond what a viewer shows; labels then grow sparse."""
    from PIL import Image

    told = made(*(one_worker(number, working=1.0) for number in range(workers)), seconds=1.0)
    with Image.open(told.plot(tmp_path / "timeline.png")) as image:
        assert image.width == 1500
        assert least <= image.height <= most
    labels = told.plot(tmp_path / "timeline.svg").read_text().count("<!-- worker ")
    assert labels == workers if workers < 90 else 45 <= labels <= 90


@needs_matplotlib
def test_a_plot_leaves_pyplot_alone(tmp_path):
    """Importing it would choose a backend for the whole program."""
    program = (
        "import sys; from pools_core.insights_recorder import InsightsRecorder\n"
        f"InsightsRecorder().snapshot().plot({str(tmp_path / 'timeline.svg')!r})\n"
        "print('matplotlib.pyplot' in sys.modules, 'matplotlib' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "False True\n"


@pytest.mark.parametrize("name", ["timeline", "timeline.jpg", ".svg"])
def test_a_plot_of_another_suffix_is_refused(tmp_path, name):
    """With the suffixes that there are; matplotlib would write to another name."""
    with pytest.raises(ValueError, match=r"ends in \.svg, \.png, \.pdf, not"):
        made().plot(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_extra_is_named(tmp_path, monkeypatch):
    """What to install, rather than what is missing inside."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)

    with pytest.raises(ImportError, match=r"pip install 'pools-core\[plot\]'") as caught:
        made().plot(tmp_path / "timeline.svg")
    assert caught.value.name == "matplotlib"


# --- as MPIRE tells them --------------------------------------------------------------------------


def test_mpires_keys_and_formats():
    """Checked against MPIRE 2.10.2, fed with the same numbers."""
    told = made(
        WorkerInsights(0, 0.5, 0.25, 2.0, 3661.5, 0.0, tasks=3, chunks=2),
        WorkerInsights(1, 0.25, 0.25, 1.0, 86400.0, 0.0009996, tasks=5, chunks=1),
        slowest=(
            SlowTask(4000.0, 4, "Arg 0: 4 | Arg 1: 'x'", 1),
            SlowTask(1.9999, 1, "Arg 0: 1", 0),
            SlowTask(1.5, 2, "", 0),
            SlowTask(0.0, 0, "Arg 0: 0", 0),
        ),
    )
    total = 0.75 + 0.5 + 3.0 + 90061.5 + 0.0009996

    assert mpire_insights(told) == {
        "n_completed_tasks": [3, 5],
        "start_up_time": ["0:00:00.500", "0:00:00.250"],
        "init_time": ["0:00:00.250", "0:00:00.250"],
        "waiting_time": ["0:00:02", "0:00:01"],
        "working_time": ["1:01:01.500", "1 day, 0:00:00"],
        "exit_time": ["0:00:00", "0:00:00.001"],
        "total_start_up_time": "0:00:00.750",
        "total_init_time": "0:00:00.500",
        "total_waiting_time": "0:00:03",
        "total_working_time": "1 day, 1:01:01.500",
        "total_exit_time": "0:00:00.001",
        "top_5_max_task_durations": ["1:06:40", "0:00:01.999"],
        "top_5_max_task_args": ["Arg 0: 4 | Arg 1: 'x'", "Arg 0: 1"],
        "total_time": "1 day, 1:01:05.751",
        "start_up_ratio": pytest.approx(0.75 / total),
        "start_up_time_mean": "0:00:00.375",
        "start_up_time_std": "0:00:00.125",
        "init_ratio": pytest.approx(0.5 / total),
        "init_time_mean": "0:00:00.250",
        "init_time_std": "0:00:00",
        "waiting_ratio": pytest.approx(3.0 / total),
        "waiting_time_mean": "0:00:01.500",
        "waiting_time_std": "0:00:00.500",
        "working_ratio": pytest.approx(90061.5 / total),
        "working_time_mean": "12:30:30.750",
        "working_time_std": "11:29:29.250",
        "exit_ratio": pytest.approx(0.0009996 / total),
        "exit_time_mean": "0:00:00.000",
        "exit_time_std": "0:00:00.000",
    }


def test_mpires_ratios_add_up(recorder, clock):
    """To one, or what MPIRE takes for it."""
    told = mpire_insights(a_run(recorder, clock))
    assert sum(told[f"{part}_ratio"] for part in PARTS) == pytest.approx(1.0)


def test_mpire_tells_nothing_of_nothing(recorder):
    """Not even its keys."""
    assert mpire_insights(recorder.snapshot()) == {}
    assert mpire_insights(recorder.snapshot(), n_jobs=4) == {}


def test_mpire_without_any_time_has_ratios_of_zero():
    """Rather than a division by zero."""
    told = mpire_insights(made(one_worker()))
    assert [told[f"{part}_ratio"] for part in PARTS] == [0.0] * 5


def test_mpires_lists_have_an_entry_for_every_worker():
    """A worker's number is its place in them; means are over all of the pool."""
    told = made(one_worker(2, working=4.0))

    assert mpire_insights(told)["n_completed_tasks"] == [0, 0, 1]
    filled = mpire_insights(told, n_jobs=4)
    assert filled["working_time"] == ["0:00:00", "0:00:00", "0:00:04", "0:00:00"]
    assert filled["working_time_mean"] == "0:00:01"
