"""Standard input as a source of items: nothing is lost, and Ctrl-C ends every wait."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

import pytest

from pools_core.items import BadInputError, read_items

pytestmark = pytest.mark.skipif(os.name != "posix", reason="standard input is read as it is elsewhere")


@pytest.fixture
def typed(monkeypatch):
    """Standard input is a pipe; give the end that is written to."""
    reading, writing = os.pipe()
    ends = [os.fdopen(reading), os.fdopen(writing, "wb", buffering=0)]
    monkeypatch.setattr(sys, "stdin", ends[0])
    yield ends[1]
    for end in ends:
        end.close()


def test_lines_are_given_as_they_come(typed):
    """Also in pieces, with what stands between line ends kept, and without a last one."""
    items = read_items(lines="-")
    typed.write(b"\xef\xbb\xbfa\nb b\r\n\n\xffc")
    assert [next(items) for _ in range(3)] == ["a", "b b", ""]
    typed.write(b"\xc3")
    typed.write(b"\xa4\nlast")
    typed.close()
    assert list(items) == ["\udcffc\xe4", "last"]


def test_what_is_not_read_stays_for_others(typed):
    """Its descriptor outlives the items."""
    items = read_items(lines="-")
    typed.write(b"a\n")
    assert next(items) == "a"
    items.close()

    typed.write(b"b\n")
    assert sys.stdin.readline() == "b\n"


def test_ctrl_c_ends_a_wait_that_it_does_not_interrupt(typed, monkeypatch):
    """As one that came just before the wait began: here another thread gets the signal, this one sleeps."""
    waits = threading.Event()
    set_wakeup_fd = signal.set_wakeup_fd

    def set_and_tell(number, **options):
        before = set_wakeup_fd(number, **options)
        waits.set()
        return before

    def interrupt():
        waits.wait(10)
        os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(signal, "set_wakeup_fd", set_and_tell)
    rescue = threading.Timer(20, typed.close)  # without it, a failure would be a test that never ends
    interrupting = threading.Thread(target=interrupt)
    rescue.start()
    interrupting.start()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    try:
        with pytest.raises(KeyboardInterrupt):
            next(read_items(lines="-"), None)
        assert not typed.closed  # it did not take the rescue
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        rescue.cancel()
        rescue.join()
        interrupting.join()


def test_another_signal_ends_nothing(typed):
    """Whoever waits goes on."""
    heard = []
    before = signal.signal(signal.SIGUSR1, lambda number, _frame: heard.append(number))

    def tell_and_type():
        os.kill(os.getpid(), signal.SIGUSR1)
        typed.write(b"a\n")

    telling = threading.Thread(target=tell_and_type)
    try:
        telling.start()
        assert next(read_items(lines="-")) == "a"
    finally:
        telling.join()
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


def test_the_programs_own_wake_up_descriptor_is_put_back(typed):
    """An event loop in this thread may have one."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    before = signal.set_wakeup_fd(writing)
    try:
        typed.write(b"a\n")
        assert next(read_items(lines="-")) == "a"
    finally:
        assert signal.set_wakeup_fd(before) == writing
        os.close(reading)
        os.close(writing)


def test_items_may_be_read_in_another_thread(typed):
    """To which no signal comes."""
    typed.write(b"a\nb\n")
    typed.close()
    found = []
    thread = threading.Thread(target=lambda: found.extend(read_items(lines="-")))
    thread.start()
    thread.join(30)
    assert found == ["a", "b"]


def test_without_standard_input_it_says_so(monkeypatch):
    """As after ``0<&-``."""
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(BadInputError, match="no standard input"):
        read_items(lines="-")


def test_a_file_may_stand_for_it(tmp_path):
    """As after ``< file``."""
    path = tmp_path / "lines"
    path.write_text("a\nb\n")
    code = "from pools_core.items import read_items; print(*read_items(lines='-'))"
    with path.open() as file:
        said = subprocess.check_output([sys.executable, "-c", code], stdin=file, text=True)
    assert said == "a b\n"
