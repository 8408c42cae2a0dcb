"""What the modules that a worker imports before its first task need of ``typing``, without importing it.

``typing`` takes a spawned worker a twelfth of its start, for hints that nobody looks at there.  So such a
module takes from here what it needs at run time, and the rest from ``typing`` for type checkers only:

    from pools_core.hints import TYPE_CHECKING, Record

    if TYPE_CHECKING:
        from typing import Any

Type checkers go by the name ``TYPE_CHECKING``, wherever it comes from.  To them ``Record`` is
``typing.NamedTuple``; a class of it takes 25 us here instead of 65, since the types of its fields, which are
text after ``from __future__ import annotations``, are not compiled one by one to be thrown away.
"""

from __future__ import annotations

__all__ = ["TYPE_CHECKING", "Record"]

TYPE_CHECKING = False

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import NamedTuple as Record
else:
    # One field of a tuple; that of ``collections.namedtuple``, which has no public name.
    from collections import _tuplegetter

    class _RecordType(type):
        """Makes classes of records of what their bodies say."""

        def __new__(cls, name: str, bases: tuple[type, ...], body: dict[str, object]) -> type:
            """Make a class: its annotations are its fields, the values beside them their defaults."""
            kind = super().__new__(cls, name, bases, {"__slots__": (), **body})
            fields = tuple(kind.__annotations__)
            if not fields:  # ``Record`` itself
                return kind
            defaults = {field: body[field] for field in fields if field in body}
            if any(field in body for field in fields[: len(fields) - len(defaults)]):
                raise TypeError(f"{name}: a field without a default follows one that has one")
            for index, field in enumerate(fields):
                setattr(kind, field, _tuplegetter(index, f"Field {index}."))
            kind._fields = kind.__match_args__ = fields
            kind._field_defaults = defaults
            # So that a call is as fast as that of a function, with its errors and its signature.
            arguments = ", ".join(fields)
            code = f"lambda _cls, {arguments}: _new(_cls, ({arguments},))"
            new = eval(code, {"_new": tuple.__new__})  # noqa: S307  our own names
            new.__defaults__ = tuple(defaults.values())
            new.__name__, new.__qualname__ = "__new__", f"{kind.__qualname__}.__new__"
            kind.__new__ = new
            return kind

    class Record(tuple, metaclass=_RecordType):
        """A tuple whose items have names; the body of a class of them is that of a ``typing.NamedTuple``."""

        __slots__ = ()

        def __repr__(self) -> str:
            """Say what it is, as whoever made it would write it."""
            shown = (f"{field}={value!r}" for field, value in zip(self._fields, self, strict=True))
            return f"{type(self).__name__}({', '.join(shown)})"

        def __getnewargs__(self) -> tuple[object, ...]:
            """Be copied and pickled as what it was made of."""
            return tuple(self)

        @classmethod
        def _make(cls, values: Iterable[object]) -> Record:
            """Return one of these values, as many as there are fields."""
            return cls(*values)

        def _asdict(self) -> dict[str, object]:
            """Return the values by the names of their fields."""
            return dict(zip(self._fields, self, strict=True))

        def _replace(self, /, **changed: object) -> Record:
            """Return one with some fields changed."""
            new = tuple.__new__(type(self), map(changed.pop, self._fields, self))
            if changed:
                raise ValueError(f"{type(self).__name__} has no field {', '.join(map(repr, changed))}")
            return new
