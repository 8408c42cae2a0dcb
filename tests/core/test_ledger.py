"""What a worker wrote down and did not send."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from pools_core.ledger import LEDGER_BYTES, Ledger, unsent

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary()


@given(values=st.lists(PLAIN, max_size=50), sent=st.integers(0, 60), received=st.integers(0, 60))
def test_what_was_noted_and_has_not_arrived_is_there(values, sent, received):
    """Neither more nor less, whether or not the worker came to note that it had been sent."""
    sent, received = sorted((min(sent, len(values)), min(received, len(values))))
    memory = memoryview(bytearray(LEDGER_BYTES))
    ledger = Ledger(memory)
    ledger.begin(7)
    assert all(map(ledger.note, values[:sent]))
    ledger.sent(sent)
    assert all(map(ledger.note, values[sent:]))
    assert unsent(memory, 7, received) == values[received:]


def test_another_chunk_has_nothing_there():
    """Nor has the chunk before, once the next one has begun."""
    memory = memoryview(bytearray(LEDGER_BYTES))
    assert unsent(memory, 7, 0) == []
    ledger = Ledger(memory)
    ledger.begin(7)
    assert ledger.note("value")
    assert (unsent(memory, 7, 0), unsent(memory, 8, 0)) == (["value"], [])
    ledger.begin(8)
    assert (unsent(memory, 7, 0), unsent(memory, 8, 0)) == ([], [])


def test_what_is_too_large_is_refused_and_the_rest_stays():
    """It leaves at once then, and there is room again."""
    memory = memoryview(bytearray(1_000))
    ledger = Ledger(memory)
    ledger.begin(7)
    assert ledger.note(b"x" * 400)
    assert not ledger.note(b"y" * 600)
    assert unsent(memory, 7, 0) == [b"x" * 400]
    ledger.sent(1)
    assert ledger.note(b"y" * 600)
    assert unsent(memory, 7, 1) == [b"y" * 600]
