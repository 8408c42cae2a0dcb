"""Envelopes: what is altered, swapped, replayed or unsigned is refused; keys are well kept."""

from __future__ import annotations

import hmac
import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pools_core.errors import SecurityError
from pools_gearman.signing import (
    MAC_BYTES,
    OVERHEAD,
    SMALL,
    Direction,
    RefusedFrameError,
    ReplayGuard,
    Signer,
    Why,
    read_secret,
)

SECRET = b"0123456789abcdef"
SIGNER = Signer(SECRET)
TO_NODE, TO_CLIENT = Direction.TO_NODE, Direction.TO_CLIENT


def sealed(signer=SIGNER, direction=TO_NODE, job=b"c-1.1", function=b"run", body=(b"ab", b"c"), number=0):
    return b"".join(signer.seal(direction, job, function, body, number))


def why(frame, signer=SIGNER, direction=TO_NODE, job=b"c-1.1", function=b"run"):
    with pytest.raises(RefusedFrameError) as caught:
        signer.open(frame, direction, job, function)
    return caught.value.why


@given(st.lists(st.binary(max_size=50), max_size=5), st.integers(0, 2**64 - 1))
def test_what_was_sealed_can_be_opened(body, number):
    """The body as it was, and its number."""
    opened = SIGNER.open(sealed(body=body, number=number), TO_NODE, b"c-1.1", b"run")

    assert bytes(opened.body) == b"".join(body)
    assert opened.number == number


@pytest.mark.parametrize("size", [0, 1, SMALL - OVERHEAD - 1, SMALL - OVERHEAD, SMALL - 1, SMALL, 1_000_000])
def test_a_signature_is_the_hmac_of_all_but_itself(size):
    """Worked out by hand here, as the module says; in pieces or in one, small or large."""
    body = os.urandom(size)
    frame = sealed(body=(body[: size // 3], body[size // 3 :]))
    covered = b"\5\0\3\0" + b"c-1.1" + b"run" + frame[: OVERHEAD - MAC_BYTES] + body

    assert frame[OVERHEAD - MAC_BYTES : OVERHEAD] == hmac.digest(SECRET, covered, "sha256")
    assert SIGNER.open(frame, TO_NODE, b"c-1.1", b"run").body == body


def test_a_small_body_is_bytes_and_a_large_one_is_not_copied():
    """Pieces of bytes are quicker in all that follows; a copy of a large body would cost more than that."""
    small, large = sealed(body=(bytes(100),)), sealed(body=(bytes(SMALL),))

    assert type(SIGNER.open(small, TO_NODE, b"c-1.1", b"run").body) is bytes
    view = SIGNER.open(large, TO_NODE, b"c-1.1", b"run").body
    assert isinstance(view, memoryview) and view.obj is large


@given(st.data())
def test_a_frame_with_any_bit_changed_is_refused(data):
    """Header, signature and body alike."""
    frame = bytearray(sealed())
    place = data.draw(st.integers(0, 8 * len(frame) - 1))
    frame[place >> 3] ^= 1 << (place & 7)

    assert why(bytes(frame)) in Why


@given(st.binary(max_size=200))
def test_garbage_is_refused(garbage):
    """Whatever its length."""
    assert why(garbage) in (Why.MALFORMED, Why.VERSION, Why.UNSIGNED, Why.SIGNATURE)


@given(st.integers(0, OVERHEAD + 2))
def test_a_truncated_frame_is_refused(length):
    """At any place."""
    assert why(sealed()[:length]) in (Why.MALFORMED, Why.SIGNATURE)


def test_a_frame_is_bound_to_its_job_function_and_direction():
    """A result cannot stand for another's, nor for a job."""
    assert why(sealed(), job=b"c-1.2") is Why.SIGNATURE
    assert why(sealed(), function=b"control") is Why.SIGNATURE
    assert why(sealed(), direction=TO_CLIENT) is Why.DIRECTION
    assert why(sealed(job=b"c-1.1r", function=b"un")) is Why.SIGNATURE


def test_the_key_matters_and_so_does_having_one():
    """A side without a key opens nothing that is signed, and one with a key nothing that is not."""
    assert why(sealed(Signer(b"another key here"))) is Why.SIGNATURE
    assert why(sealed(Signer(None))) is Why.UNSIGNED
    assert why(sealed(), signer=Signer(None)) is Why.SIGNATURE


def test_an_old_frame_is_refused_by_a_node(monkeypatch):
    """It may have been recorded; an answer may be as old as it likes, since its job is used once."""
    old, answer = sealed(), sealed(direction=TO_CLIENT)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 301)

    assert why(old) is Why.STALE
    assert bytes(SIGNER.open(answer, TO_CLIENT, b"c-1.1", b"run").body) == b"abc"


def test_secrets_are_not_shown():
    """In a traceback with locals, say."""
    assert SECRET.decode() not in repr(SIGNER)


def test_the_replay_guard_takes_each_job_once():
    """In any order, of many clients."""
    guard = ReplayGuard(300)
    for job in (b"a-1.1", b"a-1.3", b"a-1.2", b"b-1.1", b"a-2.1", b"a-1.fffffff"):
        guard.check(job, 0.0)
        with pytest.raises(RefusedFrameError, match="seen before"):
            guard.check(job, 1.0)


@given(st.lists(st.integers(0, 1 << 26), unique=True, max_size=20))
def test_the_replay_guard_never_takes_a_job_twice(numbers):
    """However far apart they are: one that lies too far back counts as seen."""
    guard = ReplayGuard(300)
    taken = set()
    for number in [*numbers, *numbers]:
        try:
            guard.check(f"a-1.{number:x}".encode(), 0.0)
        except RefusedFrameError:
            continue
        assert number not in taken
        taken.add(number)


@pytest.mark.parametrize("job", [b"", b"x", b"a.", b"a.zz", b"a." + b"f" * 40])
def test_the_replay_guard_refuses_what_is_no_job_id(job):
    """It would have to remember it as it is."""
    with pytest.raises(RefusedFrameError):
        ReplayGuard(300).check(job, 0.0)


def test_a_key_file_that_others_can_read_is_refused(tmp_path):
    """With what to do."""
    key = tmp_path / "key"
    key.write_bytes(SECRET)
    key.chmod(0o640)
    with pytest.raises(SecurityError, match=r"chmod 600") as caught:
        read_secret(key)
    assert SECRET.decode() not in str(caught.value)

    key.chmod(0o600)
    assert read_secret(key) == SECRET


def test_a_key_file_that_is_missing_or_short_is_refused(tmp_path):
    """A short one can be guessed."""
    with pytest.raises(SecurityError, match="pools gearman init"):
        read_secret(tmp_path / "none")
    short = tmp_path / "short"
    short.touch(mode=0o600)
    short.write_text("12345")
    with pytest.raises(SecurityError, match="5 bytes"):
        read_secret(short)
