"""A chunk of which only the first tasks are left, since what stood behind a slow task was given back."""

from __future__ import annotations

from typing import cast

from pools_core.calls import Chunk, Packed
from pools_core.payload import Sealed, batch_of, pack_plain, unpack_batch

__all__ = ["first_of"]


def first_of(chunk: Chunk, size: int) -> Chunk:
    """Return the chunk with its first tasks alone; nothing of the user's is opened.

    Args:
        chunk: its items are packed.
        size: how many tasks; at least 1, and fewer than it has.
    """
    assert isinstance(chunk.items, Packed)
    elements, sealed = unpack_batch(chunk.items)
    first = list(elements[:size])
    items = batch_of(cast("list[Sealed]", first)) if sealed else pack_plain(first)
    unit = chunk.unit if chunk.unit is not None and chunk.unit < size else None
    return chunk._replace(size=size, items=items, unit=unit)
