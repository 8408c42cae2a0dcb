"""Records: named tuples in all that we use of them."""

from __future__ import annotations

import copy
import inspect
import pickle
from typing import NamedTuple

import pytest

from pools_core.hints import TYPE_CHECKING, Record


class Ours(Record):
    """A record."""

    id: int
    values: list[int]
    name: str = "nobody"
    size: int = 0

    @property
    def double(self) -> int:
        """Twice the size."""
        return 2 * self.size


class Theirs(NamedTuple):
    """The same."""

    id: int
    values: list[int]
    name: str = "nobody"
    size: int = 0

    @property
    def double(self) -> int:
        """Twice the size."""
        return 2 * self.size


BOTH = pytest.mark.parametrize("kind", [Ours, Theirs])
"""What the type checker takes it for, and what it is, answer alike."""


def test_type_checkers_see_what_is_not_there():
    """Or each worker would import ``typing``."""
    assert not TYPE_CHECKING
    assert Record is not NamedTuple


@BOTH
def test_fields_are_given_by_place_by_name_or_not_at_all(kind):
    """As arguments of a function are."""
    assert kind(1, [2]) == kind(values=[2], id=1) == (1, [2], "nobody", 0)
    assert kind(1, [2], size=3) == (1, [2], "nobody", 3)
    one = kind(1, [2], "somebody", 4)
    assert (one.id, one.values, one.name, one.size, one.double) == (1, [2], "somebody", 4, 8)
    assert kind._fields == kind.__match_args__ == ("id", "values", "name", "size")
    asked = inspect.signature(kind).parameters
    assert [(name, one.default) for name, one in asked.items()] == [
        ("id", inspect.Parameter.empty),
        ("values", inspect.Parameter.empty),
        ("name", "nobody"),
        ("size", 0),
    ]


@BOTH
@pytest.mark.parametrize(
    ("given", "named"),
    [((), {}), ((1,), {}), ((1, 2, 3, 4, 5), {}), ((1, 2), {"nothing": 3}), ((1, 2), {"id": 1})],
)
def test_wrong_fields_are_a_type_error(kind, given, named):
    """That names the class."""
    with pytest.raises(TypeError, match=f"{kind.__name__}.__new__"):
        kind(*given, **named)


@BOTH
def test_a_record_cannot_be_changed_nor_added_to(kind):
    """It is a tuple, and takes no more room than one."""
    one = kind(1, [2])
    for name in ("id", "double", "more"):
        with pytest.raises(AttributeError):
            setattr(one, name, 1)
    assert not hasattr(one, "__dict__")
    assert one.__sizeof__() == tuple(one).__sizeof__()


@BOTH
def test_a_record_is_made_of_values_and_taken_apart(kind):
    """All that its type says it can do."""
    one = kind._make([1, [2], "somebody", 3])
    assert type(one) is kind
    assert one._asdict() == {"id": 1, "values": [2], "name": "somebody", "size": 3}
    assert kind._field_defaults == {"name": "nobody", "size": 0}
    with pytest.raises(TypeError):
        kind._make([1])


@BOTH
def test_a_record_is_replaced_by_another(kind):
    """Of the same class, with all that is not named."""
    one = kind(1, [2], size=3)
    other = one._replace(name="somebody", id=5)
    assert type(other) is kind
    assert other == (5, [2], "somebody", 3)
    assert one == (1, [2], "nobody", 3)
    with pytest.raises((ValueError, TypeError), match="nothing"):
        one._replace(nothing=1)


@BOTH
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_record_travels(kind, protocol):
    """It arrives as what it was."""
    one = kind(1, [2], "somebody", 3)
    for other in (pickle.loads(pickle.dumps(one, protocol)), copy.copy(one), copy.deepcopy(one)):
        assert type(other) is kind
        assert other == one


@BOTH
def test_a_record_says_what_it_is(kind):
    """As whoever made it would write it."""
    assert repr(kind(1, [2], size=3)) == f"{kind.__name__}(id=1, values=[2], name='nobody', size=3)"


def test_a_field_may_have_any_name():
    """Also one that what makes it could be thought to use."""

    class Odd(Record):
        """A record of odd names."""

        cls: int
        new: int
        make: int = 3

    assert Odd(1, new=2) == (1, 2, 3)
    assert Odd(1, 2).cls == 1


def test_a_field_without_a_default_may_not_follow_one_that_has_one():
    """It would take the place of another."""
    with pytest.raises(TypeError, match="without a default"):

        class Wrong(Record):
            """Made wrong."""

            first: int = 1
            second: int
