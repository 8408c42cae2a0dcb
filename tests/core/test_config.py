"""Settings from files and code: parsed by type, code wins, nothing misspelt passes."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from pools_core.config import ALIASES, POOL_OPTIONS, Config, load, settings, whole_number
from pools_core.config_files import user_files
from pools_core.errors import ConfigError, UnsupportedOptionError
from pools_core.pool_options import COMMON
from pools_core.registry import MakePool
from pools_multicore.settings import MulticoreSettings


@dataclass(frozen=True)
class Everything:
    """One field of each kind."""

    flag: bool = False
    n_jobs: int = 1
    ratio: float = 0.5
    title: str = "t"
    key: Path | None = None
    limit: int | None = 3
    ids: tuple[int, ...] = ()
    words: list[str] = field(default_factory=list)
    mode: Literal["a", "b"] = "a"
    special: tuple[int, ...] = field(
        default=(), metadata={"parse": lambda text: tuple(map(int, text.split("+")))}
    )
    either: int | str = 0

    def __post_init__(self):
        whole_number("n_jobs", self.n_jobs, 1)


def write(path: Path, text: str) -> Path:
    path.write_text(text)
    return path


INI = """
[DEFAULT]
host = example
[everything]
flag = yes            ; a comment
n_jobs = 4 ; another
ratio = 2
title = on %(host)s; not a comment
key = sub/secret.key
limit = none
ids = 1, 2,3
words = a,b
mode = b
special = 1+2
either = x
"""

TOML = """
[everything]
flag = true
n_jobs = 4
ratio = 2
title = "on example; not a comment"
key = "sub/secret.key"
limit = "none"
ids = [1, 2, 3]
words = ["a", "b"]
mode = "b"
special = [1, 2]
either = "x"
"""


@pytest.mark.parametrize(("name", "text"), [("c.ini", INI), ("c.toml", TOML)])
def test_both_kinds_of_file_say_the_same(tmp_path, name, text):
    """Values are parsed by the option's type; relative paths start at the file."""
    path = write(tmp_path / name, text)

    found = settings(Everything, "everything", path, {})

    special = found.special if name == "c.ini" else tuple(found.special)
    assert special == (1, 2)
    assert (found.flag, found.n_jobs, found.ratio, found.limit, found.ids) == (True, 4, 2.0, None, (1, 2, 3))
    assert (found.words, found.mode, found.either) == (["a", "b"], "b", "x")
    assert found.title == "on example; not a comment"
    assert found.key == tmp_path / "sub" / "secret.key"


def test_a_mapping_is_a_config_too():
    """With values as they are, or as text."""
    found = settings(Everything, "everything", {"everything": {"n_jobs": "3", "flag": True, "ids": [1]}}, {})

    assert (found.n_jobs, found.flag, found.ids) == (3, True, (1,))


def test_code_wins_and_none_means_not_given(tmp_path):
    """So that a program can pass its own optional argument on."""
    path = write(tmp_path / "c.ini", "[everything]\nn_jobs = 4\nratio = 1\n")

    found = settings(Everything, "everything", path, {"n_jobs": 2, "ratio": None})

    assert (found.n_jobs, found.ratio) == (2, 1.0)


def test_processes_is_another_name_of_n_jobs(tmp_path):
    """In code and in files; not both at once."""
    assert ALIASES["processes"] == "n_jobs"
    assert settings(Everything, "everything", {}, {"processes": 3}).n_jobs == 3
    assert settings(Everything, "everything", {"everything": {"processes": 3}}, {}).n_jobs == 3
    with pytest.raises(TypeError, match="two names"):
        settings(Everything, "everything", {}, {"processes": 3, "n_jobs": 3})
    with pytest.raises(ConfigError, match="another name"):
        settings(Everything, "everything", {"everything": {"n_jobs": 3, "processes": 3}}, {})


@pytest.mark.parametrize(
    ("key", "value", "says"),
    [
        ("flag", "maybe", "yes or no"),
        ("n_jobs", "four", "whole number"),
        ("n_jobs", "2.5", "whole number"),
        ("n_jobs", "0", "at least 1"),
        ("ratio", "much", "number"),
        ("limit", "much", "whole number"),
        ("ids", "1, b", "each member is a whole number"),
        ("mode", "c", "one of a, b"),
        ("special", "1+b", "invalid literal"),
        ("n_jbos", "1", "did you mean 'n_jobs'"),
        ("qqqq", "1", "known are: flag, n_jobs"),
        ("cpu_ids", "1", "cannot honour 'cpu_ids'.*multicore"),
        ("title", "%(nobody)s", "nobody"),
        ("title", "100%", "percent"),
    ],
)
def test_a_bad_key_is_named_with_its_file_and_section(tmp_path, key, value, says):
    """The user can go there and mend it."""
    path = write(tmp_path / "c.ini", f"[everything]\n{key} = {value}\n")

    with pytest.raises(ConfigError, match=says) as caught:
        settings(Everything, "everything", path, {})

    assert str(path) in str(caught.value)
    assert "[everything]" in str(caught.value)
    assert key in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_bad_value_in_code_is_what_the_settings_raise():
    """The config is not blamed for it, even when it says something about the same option."""
    config = {"everything": {"n_jobs": 3}}
    with pytest.raises(ValueError, match=r"at least 1") as caught:
        settings(Everything, "everything", config, {"n_jobs": 0})
    assert not isinstance(caught.value, ConfigError)


@pytest.mark.parametrize(
    ("name", "text", "says"),
    [
        ("c.ini", "n_jobs = 1\n", "no section headers"),
        ("c.ini", "[a]\nx = 1\nx = 2\n", "already exists"),
        ("c.toml", "a = = 1", "line 1"),
        ("c.toml", "n_jobs = 1", "outside of any section"),
        ("c.yaml", "", "must end in .ini or .toml"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path, name, text, says):
    """One line, with the file."""
    path = write(tmp_path / name, text)
    with pytest.raises(ConfigError, match=says) as caught:
        load(path)
    assert str(path) in str(caught.value)


def test_a_file_that_cannot_be_read(tmp_path, monkeypatch):
    """The environment variable is mentioned when it was that which named it."""
    with pytest.raises(ConfigError, match=r"does not exist$"):
        load(tmp_path / "no.ini")
    (tmp_path / "latin.ini").write_bytes(b"[a]\nx = \xff\n")
    with pytest.raises(ConfigError, match="cannot be read"):
        load(tmp_path / "latin.ini")
    monkeypatch.setenv("POOLS_CONFIG", str(tmp_path / "no.ini"))
    with pytest.raises(ConfigError, match="POOLS_CONFIG"):
        load(None)
    with pytest.raises(TypeError, match="int"):
        load(3)


def test_a_byte_order_mark_is_no_text(tmp_path):
    """Windows editors write one."""
    (tmp_path / "c.ini").write_bytes(b"\xef\xbb\xbf[a]\nx = 1\n")
    assert load(tmp_path / "c.ini").sections == {"a": {"x": "1"}}


@pytest.mark.parametrize(
    ("section", "says"),
    [
        ("multicores", "did you mean 'multicore'"),
        ("thread", "did you mean 'threads'"),
        ("pools", "did you mean 'pool'"),
        ("pool.x", r"unknown section \[pool.x\]"),
        ("multicore.worker", r"unknown section \[multicore.worker\]"),
    ],
)
def test_a_misspelt_section_is_an_error(section, says):
    """Else what it says would be dropped in silence."""
    with pytest.raises(ConfigError, match=says):
        settings(MulticoreSettings, "multicore", {section: {}}, {})


def test_sections_of_others_are_left_alone():
    """One file may serve several programs, and backends that this machine lacks."""
    config = {"client": {"x": 1}, "somebodys": {}, "gearman": {"server": {"a": 1}}, "threads": {"n_jobs": 1}}
    assert settings(MulticoreSettings, "multicore", {**config, "multicore": {"n_jobs": 2}}, {}).n_jobs == 2


def test_subsections_are_tables_within_tables():
    """A toml file and an ini file come to the same."""
    assert load({"g": {"a": 1, "server": {"b": 2}}}).sections == {"g": {"a": 1}, "g.server": {"b": 2}}


@pytest.mark.parametrize("section", [{"backends": "x"}, {"backend": ""}, {"backend": 3}])
def test_the_pool_section_has_one_key(section):
    """And it is a name."""
    with pytest.raises(ConfigError, match=r"\[pool\]"):
        Config(sections={"pool": section}).backend()


def test_defaults_of_an_ini_file_are_variables(tmp_path):
    """They are there for interpolation, and no unknown keys; a known one counts."""
    path = write(tmp_path / "c.ini", "[DEFAULT]\nhost = h\nn_jobs = 5\n[everything]\n[pool]\nbackend = x\n")
    assert settings(Everything, "everything", path, {}).n_jobs == 5
    assert load(path).backend() == "x"


def test_a_required_key_that_is_missing():
    """The error says which."""

    @dataclass(frozen=True)
    class Needy:
        url: str

    with pytest.raises(ConfigError, match=r"'url'.*needed"):
        settings(Needy, "needy", {"needy": {}}, {})


# ── options in code, on the real backends ──


@pytest.mark.parametrize("backend", ["threads", "multicore", "singlecore"])
@pytest.mark.parametrize(
    ("value", "error"),
    [(0, ValueError), (-1, ValueError), (2.5, TypeError), ("3", TypeError), (True, TypeError)],
)
def test_n_jobs_is_a_whole_number(backend, value, error):
    """On every backend, by MakePool."""
    with pytest.raises(error, match="n_jobs"):
        MakePool(backend, n_jobs=value)


@pytest.mark.parametrize("option", sorted(set(POOL_OPTIONS) - {"n_jobs", *COMMON}))
def test_an_option_of_other_backends_is_unsupported(option):
    """It is known, so it is no slip of the pen; None means that it was not given."""
    with pytest.raises(UnsupportedOptionError, match=option):
        MakePool("singlecore", **{option: 1})
    MakePool("singlecore", **{option: None}).terminate()


@pytest.mark.parametrize("backend", ["threads", "multicore", "singlecore"])
def test_an_unknown_option_names_the_nearest(backend):
    """It is a TypeError, as for any function."""
    with pytest.raises(TypeError, match=r"n_jbos.*did you mean 'n_jobs'"):
        MakePool(backend, n_jbos=1)


def test_singlecore_takes_one_job_and_no_more():
    """Nothing is silently ignored; those that can are named."""
    MakePool("singlecore", n_jobs=1).terminate()
    with pytest.raises(UnsupportedOptionError, match="multicore, threads"):
        MakePool("singlecore", n_jobs=2)
    with pytest.raises(ConfigError, match=r"n_jobs.*multicore, threads"):
        MakePool("singlecore", {"singlecore": {"n_jobs": 2}})


def test_the_config_reaches_the_pool(tmp_path):
    """From the file to the number of workers."""
    path = write(tmp_path / "c.ini", "[pool]\nbackend = threads\n[threads]\nn_jobs = 3\n")
    with MakePool(config=path) as pool:
        assert (pool.backend, pool.size) == ("threads", 3)
    with MakePool(config=path, n_jobs=2) as pool:
        assert pool.size == 2


@pytest.mark.skipif(sys.platform != "linux", reason="these variables decide there")
def test_the_users_directory_is_where_the_environment_says_now(monkeypatch, tmp_path):
    """It is worked out once, and anew when one of the variables has changed."""
    found = []
    for name, folder in (("XDG_CONFIG_HOME", "a"), ("XDG_CONFIG_HOME", "b"), ("HOME", "c"), ("HOME", "d")):
        if name == "HOME":
            monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
        monkeypatch.setenv(name, str(tmp_path / folder))
        found.append(user_files()[0].parent.relative_to(tmp_path).as_posix())
    assert found == ["a/pools", "b/pools", "c/.config/pools", "d/.config/pools"]
