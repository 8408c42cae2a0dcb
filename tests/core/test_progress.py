"""Progress: what is checked before a call, what is shown during it, and that nothing else is touched."""

from __future__ import annotations

import io
import os
import pickle
import subprocess
import sys
import textwrap
import threading
import timeit
import warnings
from types import SimpleNamespace

import pytest

from pools_core import progress, progress_locks, progress_options, progress_rich
from pools_core.progress import Progress, ProgressEvent, ProgressSettings, open_progress, read_progress

tqdm_std = pytest.importorskip("tqdm.std")


class Clock:
    """Time that passes when a test says so."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and keeps what is written."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def terminal(monkeypatch):
    """The standard error as ``progress`` sees it, a terminal; pytest resets the real one."""
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "100")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE"):
        monkeypatch.delenv(name, raising=False)
    stream = Terminal()
    monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=stream))
    return stream


@pytest.fixture
def start(clock):
    """Return a function that opens a bar as a call does; all are closed at the end."""
    opened = []

    def _start(style=None, options=None, total=100, description="fit") -> Progress:
        settings = read_progress(True, style, options)
        assert settings is not None
        opened.append(open_progress(settings, total, description, clock=clock))
        return opened[-1]

    yield _start
    for bar in opened:
        bar.close()


def lines(text: str) -> list[str]:
    """The states that a bar was drawn in, without the moves of the cursor between them."""
    return [line for line in text.replace("\x1b[A", "").replace("\r", "\n").split("\n") if line.strip()]


def run(code: str) -> str:
    """Run a program in a new interpreter; return what it printed."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class TestChecks:
    """``read_progress``: what a user got wrong is told before the call starts."""

    def test_no_bar_is_none(self):
        assert read_progress(False, None, None) is None
        assert read_progress(False, "rich", {"unit": "img"}) is None

    def test_without_a_bar_nothing_is_imported(self):
        """tqdm and rich cost tens of milliseconds that only users of bars shall pay."""
        printed = run("""
            import sys
            from pools_core.progress import read_progress
            read_progress(False, None, None)
            read_progress(False, "rich", {"unit": "img"})
            read_progress(False, "notebook", {"no such": 1})
            read_progress(True, print, None)
            print([name for name in ("tqdm", "rich", "ipywidgets") if name in sys.modules])
        """)
        assert printed == "[]\n"

    def test_the_default_style_can_be_reassigned(self, monkeypatch):
        """As ``mpire.tqdm_utils.PROGRESS_BAR_DEFAULT_STYLE``."""
        assert read_progress(True, None, None) == ProgressSettings("std", {})
        monkeypatch.setattr(progress, "DEFAULT_STYLE", print)
        assert read_progress(True, None, None) == ProgressSettings(print, {})
        monkeypatch.setattr(progress, "DEFAULT_STYLE", "blue")
        with pytest.raises(ValueError, match="blue"):
            read_progress(True, None, None)

    @pytest.mark.parametrize("wanted", [True, False])
    @pytest.mark.parametrize(
        ("style", "options", "error", "match"),
        [
            ("blue", None, ValueError, "unknown progress_bar_style 'blue'; known are \"std\""),
            (3, None, TypeError, "name or a callable, not int"),
            (None, [("unit", "img")], TypeError, "is a dict, not list"),
            (None, [], TypeError, "is a dict, not list"),
            (None, "", TypeError, "is a dict, not str"),
            ("rich", {"position": 0}, NotImplementedError, "rich"),
        ],
    )
    def test_misuse_raises_with_and_without_a_bar(self, wanted, style, options, error, match):
        with pytest.raises(error, match=match):
            read_progress(wanted, style, options)

    @pytest.mark.parametrize(
        "wrong",
        [
            {"ascii": 3},
            {"bar_format": 3},
            {"colour": 3},
            {"delay": "a"},
            {"desc": 3},
            {"disable": 1.5},
            {"dynamic_ncols": "a"},
            {"file": 3},
            {"initial": "a"},
            {"lock_args": 3},
            {"maxinterval": "a"},
            {"mininterval": "a"},
            {"miniters": "a"},
            {"ncols": "100%"},
            {"nrows": "a"},
            {"position": "a"},
            {"smoothing": "a"},
            {"unit": 5},
            {"unit_divisor": "a"},
            {"unit_scale": "a"},
            {"write_bytes": "a"},
        ],
        ids=lambda wrong: next(iter(wrong)),
    )
    def test_a_value_of_the_wrong_type_is_a_type_error(self, wrong):
        """tqdm takes some of them and fails when it draws, in the midst of the call."""
        with pytest.raises(TypeError, match=next(iter(wrong))):
            read_progress(True, "std", wrong)

    def test_each_option_of_tqdm_has_its_type_checked(self):
        """A new option of tqdm is not refused; this test says that it should be looked at."""
        import inspect

        known = set(inspect.signature(tqdm_std.tqdm.__init__).parameters)
        checked = set(progress_options.KINDS) | set(progress_options.OVERRIDDEN) | {"file", "postfix"}
        assert known - {"self", "iterable", "kwargs"} == checked

    @pytest.mark.parametrize("style", ["std", "rich", "notebook", print])
    def test_an_unknown_option_is_tqdms_own_error(self, style):
        if style == "notebook":
            pytest.importorskip("ipywidgets")
        with pytest.raises(tqdm_std.TqdmKeyError, match="colr") as caught:
            read_progress(True, style, {"colr": "red"})
        assert isinstance(caught.value, KeyError)

    def test_an_unknown_field_of_the_format_is_a_key_error(self):
        with pytest.raises(KeyError, match="nope"):
            read_progress(True, "std", {"bar_format": "{nope}"})

    def test_numbers_of_any_kind_are_numbers(self):
        numpy = pytest.importorskip("numpy")
        read_progress(True, "std", {"position": numpy.int64(1), "mininterval": numpy.float32(0.5)})

    def test_checking_draws_nothing_and_redirects_nothing(self, capfd):
        """MPIRE built a throw-away bar with both streams of the process redirected."""
        streams, bars = (sys.stdout, sys.stderr), len(tqdm_std.tqdm._instances)
        read_progress(True, "std", {"desc": "fit", "bar_format": "{l_bar}{bar}", "colour": "green"})
        assert capfd.readouterr() == ("", "")
        assert (sys.stdout, sys.stderr) == streams
        assert len(tqdm_std.tqdm._instances) == bars

    @pytest.mark.parametrize("name", ["total", "leave"])
    def test_total_and_leave_are_overridden_with_a_warning(self, name, terminal, start):
        with pytest.warns(RuntimeWarning, match=name):
            bar = start("std", {name: False, "unit": "img"}, total=13)
        bar.update(13)
        bar.close()
        assert "13/13" in lines(terminal.getvalue())[-1]
        assert terminal.getvalue().endswith("\n")  # left there

    def test_warnings_are_about_the_users_line(self):
        """Not about one of ours, however deep it is below the call of a pool."""
        ours = {"__name__": "pools_multicore.pool", "read": read_progress}
        exec(compile("def map(options): return read(True, None, options)", "pool.py", "exec"), ours)
        users = {"__name__": "users", "map": ours["map"], "options": {"leave": False}}
        with pytest.warns(RuntimeWarning) as caught:
            exec(compile("\n\nmap(options)", "users.py", "exec"), users)
        assert (caught[0].filename, caught[0].lineno) == ("users.py", 3)

    def test_an_unknown_colour_warns_once_and_is_not_used(self, terminal, start):
        with pytest.warns(RuntimeWarning, match="mauve"):
            bar = start("std", {"colour": "mauve"})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            bar.close()
        assert "0/100" in terminal.getvalue()

    @pytest.mark.parametrize("style", ["std", "rich"])
    def test_the_users_dict_is_not_changed(self, style, terminal, start):
        options = {"unit": "img", "desc": "mine", "total": 5}
        before = dict(options)
        with pytest.warns(RuntimeWarning):
            start(style, options).close()
        assert options == before

    def test_later_changes_of_the_users_dict_do_not_count(self):
        options = {"unit": "img"}
        settings = read_progress(True, None, options)
        options["unit"] = "B"
        assert settings.options == {"unit": "img"}

    def test_settings_survive_pickling(self):
        """They are part of a call's settings."""
        settings = read_progress(True, "rich", {"unit": "img"})
        assert pickle.loads(pickle.dumps(settings)) == settings

    @pytest.mark.parametrize(
        ("style", "module", "install"),
        [
            ("std", "tqdm.std", "tqdm"),
            ("rich", "rich.progress", "rich"),
            ("notebook", "ipywidgets", "ipywidgets"),
        ],
    )
    def test_what_is_missing_is_told_when_a_bar_is_wanted(self, style, module, install, monkeypatch):
        monkeypatch.setitem(sys.modules, module, None)
        assert read_progress(False, style, None) is None
        with pytest.raises(ImportError, match=f'"{style}" needs {install}: pip install {install}') as caught:
            read_progress(True, style, None)
        assert caught.value.name == install


class TestCounting:
    """``Progress``: when a display gets an event, and what it says."""

    def test_events_come_once_per_interval_and_at_the_end(self, clock):
        events = []
        bar = Progress(events.append, 10, "fit", interval=0.5, clock=clock)
        for done in range(8):
            clock.now = 1000 + done / 4
            bar.update(1)
        bar.close()
        assert [(event.done, event.seconds) for event in events] == [(3, 0.5), (5, 1.0), (7, 1.5), (8, 1.75)]
        assert [event.finished for event in events] == [False, False, False, True]

    def test_an_event_tells_everything(self, clock):
        events = []
        bar = Progress(events.append, 10, "fit", clock=clock)
        clock.now += 2
        bar.update(4, 1)
        error = ValueError("no")
        bar.close(error)
        common = {"done": 4, "total": 10, "failed": 1, "seconds": 2.0, "rate": 2.0, "eta": 3.0}
        assert events == [
            ProgressEvent(**common, finished=False, error=None, description="fit"),
            ProgressEvent(**common, finished=True, error=error, description="fit"),
        ]

    def test_what_cannot_be_known_is_none(self, clock):
        events = []
        bar = Progress(events.append, None, interval=0, clock=clock)
        bar.update(0)
        clock.now += 2
        bar.update(1)
        bar.set_total(3)
        bar.update(2)
        assert [(event.total, event.rate, event.eta) for event in events] == [
            (None, None, None),
            (None, 0.5, None),
            (3, 0.5, 4.0),
            (3, 1.5, 0.0),
        ]

    def test_a_total_is_shown_as_soon_as_it_is_known(self, clock):
        """The next task may take an hour."""
        events = []
        bar = Progress(events.append, None, interval=60, clock=clock)
        bar.set_total(3)
        assert [event.total for event in events] == [3]

    def test_an_update_of_nothing_shows_what_was_counted_since(self, clock):
        events = []
        bar = Progress(events.append, 9, clock=clock)
        bar.update(5)
        assert events == []
        clock.now += 1
        bar.update(0)
        assert [event.done for event in events] == [5]

    def test_the_count_may_begin_elsewhere(self, clock, start):
        events = []
        bar = start(events.append, {"initial": 40, "mininterval": 0})
        clock.now += 2
        bar.update(10)
        assert (events[0].done, events[0].rate, events[0].eta) == (50, 5.0, 10.0)

    def test_a_slow_display_does_not_eat_the_time(self, clock):
        """The interval counts from the end of drawing, else a slow terminal would be drawn without pause."""
        shown = []

        def slow(event):
            shown.append(event)
            clock.now += 5

        bar = Progress(slow, 10, interval=1, clock=clock)
        clock.now += 1
        bar.update(1)
        bar.update(1)
        assert len(shown) == 1

    def test_closing_twice_is_closing_once(self, clock):
        events = []
        bar = Progress(events.append, 10, clock=clock)
        bar.close()
        bar.close(ValueError())
        clock.now += 9
        bar.update(1)
        bar.set_total(11)
        assert len(events) == 1 and events[0].error is None

    def test_a_display_that_raises_is_logged_once_and_dropped(self, clock, caplog):
        """A call goes on, whatever becomes of its bar."""
        bar = Progress(lambda event: 1 / 0, 10, interval=0, clock=clock)
        for _ in range(3):
            bar.update(1)
        bar.set_total(5)
        bar.close()
        assert len(caplog.records) == 1
        assert caplog.records[0].exc_info[0] is ZeroDivisionError

    def test_an_interrupt_in_a_display_is_not_swallowed(self, clock):
        def interrupted(event):
            raise KeyboardInterrupt

        bar = Progress(interrupted, 10, interval=0, clock=clock)
        with pytest.raises(KeyboardInterrupt):
            bar.update(1)

    def test_a_display_that_does_not_open_is_logged(self, terminal, caplog, monkeypatch, start):
        monkeypatch.setattr(progress, "tqdm_display", lambda *_: 1 / 0)
        bar = start("std")
        bar.update(1)
        bar.close()
        assert [record.exc_info[0] for record in caplog.records] == [ZeroDivisionError]

    def test_an_update_that_is_not_due_costs_under_a_microsecond(self):
        """There are calls with a million tasks; the best of many rounds is what it costs undisturbed."""
        bar = Progress(lambda event: None, 10**6, interval=3600)
        best = min(timeit.repeat(lambda: bar.update(1), number=1000, repeat=50))
        assert best / 1000 < 1e-6

    def test_its_state_shows(self):
        bar = Progress(None, None, "fit")
        bar.update(3)
        assert repr(bar) == "<Progress 'fit' 3/?>"
        bar.close()
        assert repr(bar) == "<Progress 'fit' 3/? closed>"


class TestCallable:
    """A user's function is a display as it is."""

    def test_it_gets_events_and_the_options_of_time(self, clock, start, capfd):
        events = []
        bar = start(events.append, {"mininterval": 2, "desc": "mine"}, total=5)
        for _ in range(5):
            clock.now += 1
            bar.update(1)
        bar.close()
        assert [event.done for event in events] == [2, 4, 5]
        assert {event.description for event in events} == {"mine"}
        assert capfd.readouterr() == ("", "")

    def test_disable_is_honoured(self, start):
        events = []
        start(events.append, {"disable": True}).close()
        assert events == []


class TestTerminal:
    """Style "std" where a line can be drawn over: tqdm's bar."""

    def test_it_begins_at_nothing_and_ends_with_all(self, terminal, clock, start, capsys):
        bar = start("std", total=13)
        for _ in range(13):
            clock.now += 0.2
            bar.update(1)
        bar.close()
        states = lines(terminal.getvalue())
        assert states[0].startswith("fit:   0%|") and "0/13" in states[0]
        assert [f"{done}/13" in state for done, state in zip(range(14), states, strict=False)] == [True] * 14
        assert states[-1].startswith("fit: 100%|") and "13/13" in states[-1]
        assert terminal.getvalue().endswith("\n")
        assert capsys.readouterr().out == ""

    def test_it_is_drawn_once_per_interval(self, terminal, clock, start):
        bar = start("std")
        before = len(terminal.getvalue())
        for _ in range(50):
            bar.update(1)
        assert len(terminal.getvalue()) == before
        clock.now += 0.1
        bar.update(1)
        assert "51/100" in terminal.getvalue()

    def test_a_burst_does_not_silence_slow_tasks(self, terminal, clock, start):
        """tqdm adapts ``miniters`` to the burst, and relies on its helper thread to take that back."""
        bar = start("std", total=10**6)
        clock.now += 0.1
        bar.update(100_000)
        clock.now += 0.1
        bar.update(1)
        assert "100001/1000000" in terminal.getvalue()

    def test_an_unknown_total_is_filled_in(self, terminal, clock, start):
        bar = start("std", total=None)
        clock.now += 1
        bar.update(3)
        assert "3it [" in terminal.getvalue() and "%" not in terminal.getvalue()
        bar.set_total(12)
        assert "25%" in terminal.getvalue() and "3/12" in terminal.getvalue()

    @pytest.mark.parametrize(
        ("error", "shown"),
        [
            (ValueError("bad\x1b[2J\nvalue"), "fit stopped by ValueError: bad [2J value:"),
            (ValueError(), "fit stopped by ValueError:"),
            (OSError("x" * 500), "fit stopped by OSError: xxx"),
            (KeyboardInterrupt(), "fit interrupted:"),
        ],
    )
    def test_an_error_is_shown(self, error, shown, terminal, start):
        """In one short line and without control characters, whatever its text."""
        bar = start("std")
        bar.update(5)
        bar.close(error)
        last = lines(terminal.getvalue())[-1]
        assert last.startswith(shown) and "5/100" in last
        assert len(last) < 180

    def test_an_error_without_a_text_is_shown(self, terminal, start):
        class Odd(Exception):
            def __str__(self):
                raise RuntimeError

        start("std").close(Odd())
        assert "fit stopped by Odd:" in terminal.getvalue()

    def test_an_error_without_a_description_is_shown(self, terminal, start):
        start("std", description="").close(KeyboardInterrupt())
        assert lines(terminal.getvalue())[-1].startswith("interrupted:")

    def test_failures_are_counted_beside_the_users_postfix(self, terminal, start):
        bar = start("std", {"postfix": {"lr": 3}})
        bar.update(9, 2)
        bar.close()
        assert lines(terminal.getvalue())[-1].endswith("lr=3, 2 failed]")

    @pytest.mark.parametrize("style", ["std", "rich"])
    def test_options_are_accepted(self, style, terminal, clock, start):
        """The combination that MPIRE's own tests use, and what else changes the picture."""
        bar = start(style, {"desc": "mine", "unit": "img", "colour": "#00ff00", "unit_scale": True})
        clock.now += 1
        bar.update(50)
        bar.close()
        shown = terminal.getvalue()
        assert "mine" in shown and "img/s" in shown and "fit" not in shown
        assert "38;2;0;255;0m" in shown or "\x1b[38;5;46m" in shown or style == "rich"

    def test_a_given_width_is_kept(self, terminal, start):
        """tqdm would prefer ``dynamic_ncols``, which is our default and not what the user said."""
        start("std", {"ncols": 40}).close()
        assert {len(line) for line in lines(terminal.getvalue())} == {40}

    def test_another_stream(self, terminal, start):
        other = Terminal()
        start("std", {"file": other}).close()
        assert "0/100" in other.getvalue() and terminal.getvalue() == ""

    @pytest.mark.parametrize("style", ["std", "rich"])
    def test_disable_draws_nothing(self, style, terminal, start):
        start(style, {"disable": True}).close()
        assert terminal.getvalue() == ""

    def test_disable_none_means_off_where_there_is_no_terminal(self, terminal, start):
        start("std", {"disable": None}).close()
        assert terminal.getvalue() != ""
        pipe = io.StringIO()
        start("std", {"disable": None, "file": pipe}).close()
        assert pipe.getvalue() == ""

    def test_no_standard_error_is_no_bar(self, monkeypatch, start):
        """As in a program without a console."""
        monkeypatch.setattr(progress, "sys", SimpleNamespace(stderr=None))
        bar = start("std")
        bar.update(3)
        bar.close()


class TestManyBars:
    """Several at once: nested, or in threads."""

    def test_each_gets_a_free_position_and_gives_it_back(self, terminal, start):
        def row(bar: Progress) -> int:
            return abs(bar._display._bar.pos)

        first, second = start(), start()
        mine = tqdm_std.tqdm.__new__(type("Users", (tqdm_std.tqdm,), {"monitor_interval": 0}))
        mine.__init__(total=3, file=terminal)
        fourth = start()
        assert [row(first), row(second), abs(mine.pos), row(fourth)] == [0, 1, 2, 3]
        second.close()
        assert row(start()) == 1
        mine.close()

    def test_threads_get_different_positions(self, terminal, start):
        rows, gate = [], threading.Barrier(8)

        def one():
            gate.wait()
            rows.append(abs(start("std")._display._bar.pos))

        threads = [threading.Thread(target=one) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(rows) == list(range(8))

    def test_a_position_can_be_given(self, terminal, start):
        bar = start("std", {"position": 3})
        assert abs(bar._display._bar.pos) == 3
        assert terminal.getvalue().startswith("\n\n\n")

    @pytest.mark.parametrize("style", ["std", "rich"])
    def test_the_last_states_stand_one_below_the_other(self, style, terminal, clock, start):
        """Read by a terminal in miniature: what a person sees at the end."""
        bars = [start(style, description=f"job {index}", total=9) for index in range(3)]
        clock.now += 1
        for bar in bars:
            bar.update(4)
        bars[1].close()
        bars[2].update(5)
        bars[2].close()
        bars[0].close(KeyboardInterrupt())
        seen = [line for line in screen(terminal.getvalue()) if line.strip()]
        assert [line[:5] for line in seen] == ["job 1", "job 2", "job 0"]
        assert ["4/9" in line for line in seen] == [True, False, True]
        assert "9/9" in seen[1] and "interrupted" in seen[2]


def screen(text: str) -> list[str]:
    """What a terminal shows; it knows the moves and erasures that bars use."""
    import re

    rows, row, column = [""] * 50, 0, 0
    for match in re.finditer(r"\x1b\[(\??[\d;]*)([A-Za-z])|\r|\n|[^\x1b\r\n]+", text):
        part, number, move = match.group(), match.group(1), match.group(2)
        if part == "\n":
            row, column = row + 1, 0
        elif part == "\r":
            column = 0
        elif move == "A":
            row -= int(number or 1)
        elif move == "K":
            rows[row] = "" if number == "2" else rows[row][:column]
        elif move is None:
            before = rows[row].ljust(column)
            rows[row] = before[:column] + part + before[column + len(part) :]
            column += len(part)
    return rows


class TestLines:
    """Style "std" where nothing can be drawn over: a line now and then."""

    def test_a_line_every_ten_seconds_and_one_at_the_end(self, clock, start, capfd):
        bar = start("std", total=5000)
        for _ in range(250):
            clock.now += 0.1
            bar.update(10)
        bar.close()
        out, err = capfd.readouterr()
        assert out == ""
        assert err.splitlines() == [
            "fit: 1,000/5,000 (20%), 100/s, about 40 s left",
            "fit: 2,000/5,000 (40%), 100/s, about 30 s left",
            "fit: 2,500/5,000 (50%), 100/s, in 25 s",
        ]

    def test_a_total_that_becomes_known_is_no_line_of_its_own(self, clock, start, capfd):
        bar = start("std", total=None)
        clock.now += 1
        bar.set_total(5)
        assert capfd.readouterr().err == ""

    def test_a_longer_interval_is_kept(self, clock, start, capfd):
        bar = start("std", {"mininterval": 60})
        for _ in range(70):
            clock.now += 1
            bar.update(1)
        assert capfd.readouterr().err == "fit: 60/100 (60%), 1.0/s, about 40 s left\n"

    @pytest.mark.parametrize(
        ("done", "failed", "seconds", "total", "line"),
        [
            (0, 0, 0, 5, "0/5 (0%), in 0 s"),
            (0, 0, 0, 0, "0/0, in 0 s"),
            (3, 0, 0.5, None, "3, 6.0/s, in 0.5 s"),
            (999, 2, 7200, 1000, "999/1,000 (99%), 7.2 s each, in 2 h, 2 failed"),
            (12_000, 0, 10, 12_000, "12,000/12,000 (100%), 1,200/s, in 10 s"),
            (1, 0, 200, 1, "1/1 (100%), 3 min 20 s each, in 3 min 20 s"),
            (1, 0, 270_000, 1, "1/1 (100%), 3 d 3 h each, in 3 d 3 h"),
        ],
    )
    def test_the_words(self, done, failed, seconds, total, line, clock, start, capfd):
        bar = start("std", total=total)
        bar.update(done, failed)
        clock.now += seconds
        bar.close()
        assert capfd.readouterr().err == f"fit: {line}\n"

    @pytest.mark.parametrize(
        ("error", "words"),
        [(KeyboardInterrupt(), "interrupted"), (ValueError("no"), "stopped by ValueError: no")],
    )
    def test_an_error_is_shown(self, error, words, clock, start, capfd):
        bar = start("std", total=5)
        bar.close(error)
        assert capfd.readouterr().err == f"fit: 0/5 (0%), in 0 s, {words}\n"

    @pytest.mark.parametrize(
        ("options", "line"),
        [
            ({"unit": "img", "postfix": "gpu"}, "fit: 4/8 img (50%), 2.0 img/s, in 2 s, gpu"),
            ({"postfix": {"lr": 3}, "desc": "a"}, "a: 4/8 (50%), 2.0/s, in 2 s, lr=3"),
            ({"unit": "B", "unit_scale": 1024, "unit_divisor": 1024},
             "fit: 4.00k/8.00k B (50%), 2.00k B/s, in 2 s"),
            ({"unit_scale": True}, "fit: 4.00/8.00 (50%), 2.00/s, in 2 s"),
        ],
    )  # fmt: skip
    def test_the_options(self, options, line, clock, start, capfd):
        bar = start("std", options, total=8)
        bar.update(4)
        clock.now += 2
        bar.close()
        assert capfd.readouterr().err == line + "\n"

    def test_without_a_description_there_is_no_colon(self, start, capfd):
        start("std", description="").close()
        assert capfd.readouterr().err == "0/100 (0%), in 0 s\n"

    def test_nothing_before_the_delay(self, clock, start, capfd):
        """As in tqdm: what is over sooner is not worth a line."""
        bar = start("std", {"delay": 30})
        clock.now += 20
        bar.update(1)
        bar.close()
        assert capfd.readouterr().err == ""

    def test_a_stream_of_bytes(self, start):
        stream = io.BytesIO()
        start("std", {"file": stream, "write_bytes": True}).close()
        assert stream.getvalue() == b"fit: 0/100 (0%), in 0 s\n"

    def test_a_terminal_without_a_size_gets_lines(self, start):
        """Some CI has one of 0 columns; there tqdm draws nothing at all."""
        master, slave = os.openpty()  # its size is 0 x 0 until somebody sets one
        try:
            with open(slave, "w", closefd=False) as stream:
                start("std", {"file": stream}).close()
            assert os.read(master, 1000) == b"fit: 0/100 (0%), in 0 s\r\n"
        finally:
            os.close(master)
            os.close(slave)

    def test_a_closed_stream_does_not_end_the_call(self, caplog, start):
        stream = io.StringIO()
        bar = start("std", {"file": stream})
        stream.close()
        bar.close()
        assert len(caplog.records) == 1

    def test_rich_writes_lines_too(self, start, capfd):
        pytest.importorskip("rich")
        start("rich", total=13).close()
        assert capfd.readouterr() == ("", "fit: 0/13 (0%), in 0 s\n")


class TestRich:
    """Style "rich" on a terminal."""

    @pytest.fixture(autouse=True)
    def _rich(self):
        pytest.importorskip("rich")

    def test_it_shows_what_tqdm_shows(self, terminal, clock, start, capsys):
        bar = start("rich", total=None, description="fit [bold]x[/bold]")
        clock.now += 1
        bar.update(3)
        bar.set_total(12)
        bar.close(ValueError("no"))
        last = [line for line in screen(terminal.getvalue()) if line.strip()]
        assert len(last) == 1
        assert last[0].startswith("fit [bold]x[/bold] stopped by ValueError: no ")
        assert "3/12 (25%), 3.0/s, in 1 s" in last[0]
        assert capsys.readouterr().out == ""

    def test_prints_of_the_program_stay_where_they_go(self, terminal, start):
        """rich would send them to its own stream, that is to the standard error."""
        streams = sys.stdout, sys.stderr
        start("rich")
        assert (sys.stdout, sys.stderr) == streams

    def test_the_cursor_is_given_back_and_the_stream_let_go(self, terminal, start):
        first, second = start("rich"), start("rich")
        first.close()
        assert not terminal.getvalue().rstrip().endswith("\x1b[?25h") and progress_rich._tables
        second.close()
        assert "\x1b[?25h" in terminal.getvalue().rpartition("\x1b[?25l")[2]
        assert not progress_rich._tables


class TestNotebook:
    """Style "notebook": tqdm's widget."""

    @pytest.fixture(autouse=True)
    def _ipywidgets(self):
        pytest.importorskip("ipywidgets")

    @pytest.fixture
    def shown(self, monkeypatch):
        """What is displayed; outside a notebook that would be printed."""
        import tqdm.notebook

        widgets = []
        monkeypatch.setattr(tqdm.notebook, "display", widgets.append)
        return widgets

    def test_it_shows_what_tqdm_shows(self, shown, clock, start):
        bar = start("notebook", total=4)
        clock.now += 1
        bar.update(4)
        bar.close()
        words, gauge, numbers = shown[0].children
        assert words.value.replace("\u2007", " ") == "fit: 100%"
        assert (gauge.value, gauge.max, gauge.bar_style) == (4, 4, "success")
        assert "4/4" in numbers.value

    def test_an_unknown_total_is_filled_in(self, shown, clock, start):
        bar = start("notebook", total=None)
        clock.now += 1
        bar.update(3)
        bar.set_total(12)
        assert (shown[0].children[1].value, shown[0].children[1].max) == (3, 12)
        assert "3/12" in shown[0].children[2].value

    @pytest.mark.parametrize("total", [4, None])
    def test_an_error_is_shown(self, total, shown, start):
        """Also where all was done or nobody knew how much there was: tqdm would call that a success."""
        bar = start("notebook", total=total)
        bar.update(4)
        bar.close(ValueError("no"))
        words, gauge, numbers = shown[0].children
        assert gauge.bar_style == "danger"
        assert "stopped by ValueError: no" in (words.value + numbers.value).replace("\u2007", " ")


class TestTouchesNothing:
    """tqdm, threads and other processes are as they were."""

    def test_tqdm_is_left_as_it_was(self):
        """Its lock is not even made: that would fix the start method of processes, and start a helper."""
        printed = run("""
            import multiprocessing, sys, threading
            from pools_core.progress import open_progress, read_progress
            from tqdm.std import TqdmDefaultWriteLock, tqdm
            Terminal = type("Terminal", (type(sys.stderr),), {"isatty": lambda self: True})
            sys.stderr = Terminal(sys.stderr.buffer)
            for style in ("std", "rich"):
                bar = open_progress(read_progress(True, style, None), 5, "fit")
                bar.update(3)
                print(threading.active_count())
                bar.close()
            print("_lock" in vars(tqdm), hasattr(TqdmDefaultWriteLock, "mp_lock"), tqdm.monitor)
            print(tqdm.monitor_interval, len(tqdm._instances))
            multiprocessing.set_start_method("spawn")
        """)
        assert printed == "1\n1\nFalse False None\n10 0\n"

    def test_tqdms_lock_is_the_same_after_as_before(self, terminal, start):
        before = tqdm_std.tqdm.get_lock()
        start("std").close()
        assert tqdm_std.tqdm.get_lock() is before

    def test_a_worker_killed_while_it_draws_hangs_nobody(self, terminal, start, monkeypatch):
        """It may hold tqdm's lock for processes for ever; bars here do without that lock."""

        class Stuck:
            def acquire(self, *args, **kwargs):
                raise AssertionError("would wait for ever")

        monkeypatch.setattr(tqdm_std.tqdm.get_lock(), "locks", [Stuck()])
        start("std").close()
        assert "0/100" in terminal.getvalue()

    @pytest.fixture
    def new_lock(self):
        """Whether tqdm's lock was given up is remembered; a test that makes it so shall not tell others."""
        before = progress_locks._tqdm_locks.pop(os.getpid(), None)
        yield
        progress_locks._tqdm_locks.pop(os.getpid(), None)
        if before:
            progress_locks._tqdm_locks[os.getpid()] = before

    def test_a_users_bar_interrupted_while_it_drew_hangs_nobody(self, terminal, new_lock, start, monkeypatch):
        """tqdm leaves its lock for threads locked then.  We wait once, not for each time we draw."""
        waits = []

        class HeldForEver:
            def acquire(self, timeout):
                waits.append(timeout)
                return False

        monkeypatch.setattr(progress_locks.tqdm_lock(), "_tqdms", HeldForEver())
        start("std").close()
        assert waits == [progress_locks.PATIENCE]
        assert "0/100" in terminal.getvalue()

    def test_our_bars_and_users_bars_take_turns(self, terminal, start):
        """While one of ours draws, no thread draws another of the user's."""
        seen = []

        def other():
            seen.append(tqdm_std.TqdmDefaultWriteLock.th_lock.acquire(blocking=False))

        bar = start("std")
        with bar._display._bar.get_lock():
            thread = threading.Thread(target=other)
            thread.start()
            thread.join()
        assert seen == [False]

    def test_an_interrupt_while_it_draws_leaves_the_lock_free(self, terminal, clock, start, monkeypatch):
        bar = start("std")

        def interrupted(text):
            raise KeyboardInterrupt

        clock.now += 1
        with monkeypatch.context() as patch:
            patch.setattr(terminal, "write", interrupted)
            patch.setattr(bar._display._bar, "sp", interrupted)
            with pytest.raises(KeyboardInterrupt):
                bar.update(1)
        free = []

        def try_it():
            free.append(
                progress_locks.tqdm_lock().acquire(timeout=1) and not progress_locks.tqdm_lock()._given_up
            )
            progress_locks.tqdm_lock().release()

        other = threading.Thread(target=try_it)
        other.start()
        other.join()
        assert free == [True]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
    @pytest.mark.parametrize("style", ["std", "rich"])
    def test_a_forked_child_draws_its_own_bars_only(self, style):
        """Even when another thread held the locks at the fork; and the parent's bar it just forgets."""
        printed = run(f"""
            import gc, io, os, sys, threading
            from pools_core import progress_locks
            from pools_core.progress import open_progress, read_progress
            sys.stderr = type("Terminal", (io.StringIO,), {{"isatty": lambda self: True}})()
            os.environ["TERM"] = "xterm"
            os.environ["COLUMNS"] = "100"
            bar = open_progress(read_progress(True, "{style}", None), 5, "parents")
            held, free = threading.Event(), threading.Event()

            def hold():
                with progress_locks.tqdm_lock(), progress_locks.own_lock():
                    held.set()
                    free.wait()

            holder = threading.Thread(target=hold)
            holder.start()
            held.wait()
            import warnings
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # fork beside threads; it is the point
                child = os.fork()
            if not child:
                sys.stderr.seek(0)
                sys.stderr.truncate()
                open_progress(read_progress(True, "{style}", None), 5, "childs").close()
                shown = sys.stderr.getvalue()
                del bar
                gc.collect()
                assert "childs" in shown, shown
                assert sys.stderr.getvalue() == shown
                assert "parents" not in shown or "{style}" == "std", shown
                os._exit(7)
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
            free.set()
            holder.join()
            bar.close()
        """)
        assert printed == "7\n"
