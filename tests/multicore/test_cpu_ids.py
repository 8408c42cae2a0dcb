"""Which CPUs workers may be pinned to, and how that is said."""

from __future__ import annotations

import pytest

from pools_core.config import settings
from pools_core.errors import ConfigError
from pools_multicore import settings as module
from pools_multicore.settings import MulticoreSettings, parse_cpu_ids


@pytest.fixture(autouse=True)
def eight_cpus(monkeypatch):
    """This process may use 0 to 5 and 8, on every machine that tests run on."""
    monkeypatch.setattr(module, "available_cpus", lambda: frozenset({0, 1, 2, 3, 4, 5, 8}))


@pytest.mark.parametrize(
    ("cpu_ids", "held"),
    [
        ([3, 1], ((3,), (1,))),
        ((3, 1), ((3,), (1,))),
        ([4], ((4,), (4,))),
        ([[0, 1]], ((0, 1), (0, 1))),
        ([[0, 1], [2]], ((0, 1), (2,))),
        ([range(2), {8}], ((0, 1), (8,))),
        (None, None),
    ],
)
def test_every_way_to_say_it_is_held_as_one_tuple_per_worker(cpu_ids, held):
    """One id per worker, one list for all, or a list per worker."""
    assert MulticoreSettings(n_jobs=2, cpu_ids=cpu_ids).cpu_ids == held


def test_what_is_held_can_be_given_again():
    """Settings made from settings are the same."""
    once = MulticoreSettings(n_jobs=2, cpu_ids=[[0, 1]])
    assert MulticoreSettings(n_jobs=2, cpu_ids=once.cpu_ids) == once


@pytest.mark.parametrize(
    "cpu_ids", [[0, 1, 2], [], [[]], [[0], []], [[0], [1], [2]], [[0, 1, 2, 3], [], [1]]]
)
def test_the_wrong_number_says_what_is_allowed(cpu_ids):
    """For two workers: two ids, two lists, or one list for both."""
    with pytest.raises(ValueError, match=r"cpu_ids is one id for each of the 2 workers.*\[\[\.\.\.\]\]"):
        MulticoreSettings(n_jobs=2, cpu_ids=cpu_ids)


@pytest.mark.parametrize(("cpu_ids", "refused"), [([0, 6], "6"), ([-1, 0], "-1"), ([[7, 9]], "7, 9")])
def test_ids_that_are_not_available_are_refused_with_those_that_are(cpu_ids, refused):
    """Also those of the machine that this process may not use."""
    with pytest.raises(ValueError, match=rf"0-5, 8 in this process, not {refused}$"):
        MulticoreSettings(n_jobs=2, cpu_ids=cpu_ids)


@pytest.mark.parametrize(
    "cpu_ids", [3, "0,1", b"01", {0: 1}, [0, [1]], [0.5, 1], ["0", "1"], [True, 0], [[0], [None]]]
)
def test_wrong_types_are_type_errors(cpu_ids):
    """Nothing is guessed."""
    with pytest.raises(TypeError, match="cpu_ids"):
        MulticoreSettings(n_jobs=2, cpu_ids=cpu_ids)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("0, 1", [0, 1]),
        ("0,1 | 2,3", [[0, 1], [2, 3]]),
        ("[[0, 1]]", [[0, 1]]),
        ("[0, 1]", [0, 1]),
        ("none", None),
        ("", None),
    ],
)
def test_a_config_file_can_say_all_of_it(text, meant):
    """Lists are parted by a bar, for a semicolon starts a comment."""
    assert parse_cpu_ids(text) == meant


@pytest.mark.parametrize("text", ["a", "0;1", "[0", "0,,1", "1.5"])
def test_text_that_says_nothing_is_refused(text):
    """With an example of what is right."""
    with pytest.raises(ConfigError, match=r"\[multicore\], key 'cpu_ids'.*a list each"):
        settings(MulticoreSettings, "multicore", {"multicore": {"n_jobs": "2", "cpu_ids": text}}, {})


def test_a_file_that_asks_for_cpus_that_are_not_there():
    """The error names the section and the key."""
    with pytest.raises(ConfigError, match=r"\[multicore\], key 'cpu_ids'.*not 6"):
        settings(MulticoreSettings, "multicore", {"multicore": {"cpu_ids": [0, 6]}}, {"n_jobs": 2})


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"start_method": "thread"}, ValueError),
        ({"daemon": 1}, TypeError),
        ({"daemon": "no"}, TypeError),
        ({"n_jobs": 0}, ValueError),
    ],
)
def test_other_options_are_checked_too(options, error):
    """In code, by the settings themselves."""
    with pytest.raises(error, match=next(iter(options))):
        MulticoreSettings(**{"n_jobs": 2, **options})


def test_the_number_of_workers_is_that_of_usable_cpus(monkeypatch):
    """Asked when the pool is made."""
    assert MulticoreSettings().n_jobs >= 1
