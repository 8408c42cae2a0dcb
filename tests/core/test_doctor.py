"""``pools doctor``: it finds what will not work, says what to do, and keeps secrets."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from pools_core.config import load
from pools_core.config_lines import Places
from pools_core.cpus import Cpus
from pools_core.doctor import examine
from pools_core.doctor_machine import examine_blas, examine_cpus
from pools_core.doctor_report import HIDDEN, Finding, Report, hide_secrets, shown
from pools_multicore.doctor import descriptors, threads, workers
from pools_multicore.settings import MulticoreSettings

GOOD = Path(__file__).with_name("conftest.py").read_text().split('"""')[3]

PLUGIN = """
from pools_core.hookspecs import hookimpl

@hookimpl
def pools_pool_opened(pool_id): ...
"""


def doctor(*words, path=(), **environment):
    """Run the command to its end."""
    environ = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "200", **environment}
    return subprocess.run(
        [sys.executable, "-m", "pools_core", "doctor", *map(str, words)],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def found(report, topic, name):
    """Return the one finding of that name."""
    (finding,) = [one for one in report.findings if (one.topic, one.name) == (topic, name)]
    return finding


# --- the command ----------------------------------------------------------------------------------


def test_a_sound_installation_is_well():
    """Exit status 0, and each topic has its say."""
    done = doctor()

    assert done.returncode == 0, done.stdout + done.stderr
    topics = {line.split()[0] for line in done.stdout.splitlines() if line and not line.startswith(" ")}
    assert {"versions", "backends", "plugins", "cpus", "limits", "blas", "config", "[multicore]"} <= topics
    assert "will not work" not in done.stdout


def test_json_holds_what_people_are_shown():
    """As one object, every finding with all its fields."""
    done = doctor("--json")
    told = json.loads(done.stdout)

    assert told["well"] is True
    assert done.returncode == 0
    assert {tuple(one) for one in told["findings"]} == {
        ("topic", "name", "value", "source", "state", "advice")
    }
    values = {(one["topic"], one["name"]): one["value"] for one in told["findings"]}
    assert values["versions", "Python"].startswith(sys.version.split()[0])
    assert values["versions", "dependencies"].keys() >= {"click", "cloudpickle", "pluggy"}
    assert values["backends", "chosen"] == "multicore"
    assert values["cpus", "usable"] >= 1
    assert values["start methods", "possible"]
    assert values["limits", "descriptors"].keys() == {"soft", "hard"}
    assert values["[multicore]", "n_jobs"] == values["cpus", "workers"]


@pytest.mark.parametrize("words", [["--config", "missing.ini"], ["--confg", "x"], ["more"]])
def test_bad_usage_is_told_in_one_line(words):
    """With the status that any other command has for it."""
    done = doctor(*words)

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("pools: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "advice"),
    [
        ("[multicore]\nn_job = 3\n", "did you mean 'n_jobs'?"),
        ("[multicore]\nn_jobs = many\n", "is a whole number, not 'many'"),
        ("[pool]\nbackend = multicoer\n", "did you mean 'multicore'?"),
        ("[pool]\nbakend = threads\n", "did you mean 'backend'?"),
        ("n_jobs = 3\n", "no section headers"),
    ],
)
def test_a_config_that_cannot_be_used_is_a_fault(tmp_path, text, advice):
    """The status says so, and the last lines what to do; the rest is shown all the same."""
    (tmp_path / "c.ini").write_text(text)
    done = doctor("--config", tmp_path / "c.ini")

    assert done.returncode == 1, done.stdout
    told = done.stdout.partition("will not work:\n")[2]
    assert advice in told
    assert "versions" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_config_that_the_environment_names_and_that_is_missing_is_a_fault(tmp_path):
    """It was not asked for in this command, so it is a finding, not bad usage."""
    done = doctor(POOLS_CONFIG=str(tmp_path / "no.ini"))

    assert done.returncode == 1
    assert f"{tmp_path / 'no.ini'} does not exist" in done.stdout


# --- configs --------------------------------------------------------------------------------------


def test_each_value_says_where_it_comes_from(tmp_path):
    """File and line, or default; on the screen those that nobody set stand together."""
    path = tmp_path / "c.ini"
    path.write_text("; ours\n[pool]\nbackend = multicore\n\n[multicore]\nprocesses = 3 ; a few\n")
    report = examine(str(path))

    chosen, jobs = found(report, "backends", "chosen"), found(report, "[multicore]", "n_jobs")
    assert (chosen.value, chosen.source) == ("multicore", f"{path}:3")
    assert (jobs.value, jobs.source) == (3, f"{path}:6")
    assert found(report, "[multicore]", "start_method").source == "default"
    rows = [row for row in report.rows() if row[1] in ("n_jobs", "the others")]
    assert rows[0] == ["[multicore]", "n_jobs", f"3  ({path}:6)"]
    assert "start_method none" in rows[1][2] and "n_jobs" not in rows[1][2]


def test_the_environment_is_a_source(tmp_path, monkeypatch):
    """It goes before the file."""
    path = tmp_path / "c.ini"
    path.write_text("[pool]\nbackend = multicore\n")
    monkeypatch.setenv("POOLS_CONFIG", str(path))
    monkeypatch.setenv("POOLS_BACKEND", "threads")
    report = examine()

    chosen = found(report, "backends", "chosen")
    assert (chosen.value, chosen.source) == ("threads", "$POOLS_BACKEND")
    given = found(report, "config", "by $POOLS_CONFIG")
    assert (given.value, given.source) == ("read", str(path))


def test_the_users_own_files_are_looked_for(tmp_path):
    """Whether each is there; two of them are one too many."""
    folder = tmp_path / "user-config" / "pools"  # see the fixture no_configuration
    assert [found(examine(), "config", name).value for name in ("pools.ini", "pools.toml")] == [
        "not there"
    ] * 2

    folder.mkdir(parents=True)
    (folder / "pools.toml").write_text("[threads]\nn_jobs = 2\n")
    report = examine()
    assert [found(report, "config", name).value for name in ("pools.ini", "pools.toml")] == [
        "not there",
        "read",
    ]
    assert found(report, "[threads]", "n_jobs").source == f"{folder / 'pools.toml'}:2"

    (folder / "pools.ini").write_text("")
    report = examine()
    assert not report.is_well
    assert "keep one of them" in found(report, "config", "pools.ini").advice


LINED = {
    "c.ini": """
; a comment
[DEFAULT]
host = example
[multicore]
  n_jobs = 4
  cpu_ids = 0,
     1 = no key
Start_Method: fork
[gearman.worker]
pool=threads
""",
    "c.toml": """
# a comment
multicore.n_jobs = 4
[multicore]
cpu_ids = [0, 1]
"start_method" = "fork"
[gearman]
worker = { pool = "threads" }
""",
}


@pytest.mark.parametrize(
    ("name", "section", "key", "line"),
    [
        ("c.ini", "multicore", "n_jobs", 6),
        ("c.ini", "multicore", "cpu_ids", 7),
        ("c.ini", "multicore", "start_method", 9),
        ("c.ini", "gearman.worker", "pool", 11),
        ("c.ini", "gearman.worker", "host", 4),
        ("c.ini", "gearman.worker", "1", None),
        ("c.toml", "multicore", "n_jobs", 3),
        ("c.toml", "multicore", "cpu_ids", 5),
        ("c.toml", "multicore", "start_method", 6),
        ("c.toml", "gearman.worker", "pool", 8),
        ("c.toml", "gearman.worker", "host", 8),
    ],
)
def test_lines_of_keys(tmp_path, name, section, key, line):
    """In both kinds of file; a key of an inline table has that table's line."""
    path = tmp_path / name
    path.write_text(LINED[name])
    if name == "c.toml":  # both forms of one table in one file are no TOML
        path.write_text(LINED[name].replace("multicore.n_jobs", "multi.n_jobs"))
        section = "multi" if key == "n_jobs" else section
    assert Places(load(path)).of(section, key) == (str(path) if line is None else f"{path}:{line}")


# --- secrets --------------------------------------------------------------------------------------

KEY = "0123456789abcdef" * 4


@pytest.mark.parametrize(
    ("key", "value", "is_secret"),
    [
        ("secret_file", KEY, True),  # the key itself where the name of its file should be
        ("secret_file", "cluster.key", False),
        ("secret_file", "keys/cluster", False),
        ("tls_key", "node.pem", False),
        ("api_key", "hunter2", True),
        ("password", "hunter.2", True),
        ("db_passwd", "/hunter/2", True),
        ("auth_token", "hunter2", True),
        ("client_secret", "hunter2", True),
        ("n_jobs", "hunter2", False),
    ],
)
def test_secrets_are_never_shown(key, value, is_secret):
    """Wherever they would occur: as a value, in a list, in what an error says."""
    config = load({"other": {key: value}})
    shown_there = Finding(
        "[other]", key, [value, {"a": f"<{value}>"}], f"c.ini {value}", "fault", f"not {value}!"
    )
    (finding,) = hide_secrets([shown_there], config)

    assert (value not in str(finding)) == is_secret
    assert (HIDDEN in str(finding)) == is_secret


def test_a_key_in_the_place_of_its_file_is_not_printed(tmp_path):
    """A slip that anyone may make; the error says what is wrong without it."""
    (tmp_path / "c.ini").write_text(f"[gearman]\nsecret_file = {KEY}\n")
    for words in ([], ["--json"]):
        done = doctor("--config", tmp_path / "c.ini", *words)
        assert done.returncode == 1
        assert KEY not in done.stdout + done.stderr
        assert "secret_file" in done.stdout


# --- backends and plugins -------------------------------------------------------------------------


def test_a_backend_adds_its_own_findings(install):
    """By a function of its package; of an option it may know better than the core."""
    text = GOOD + (
        "\nfrom dataclasses import dataclass\n"
        "from pools_core.doctor_report import Finding\n"
        "@dataclass(frozen=True)\nclass Settings:\n    colour: str = 'red'\n    size: int = 1\n"
        "config_sections = {'td_one': Settings}\n"
        "def Examine(config):\n"
        "    yield Finding('td_one', 'weather', 'fine')\n"
        "    yield Finding('[td_one]', 'colour', 'blue', 'the sky')\n"
        "    yield Finding('td_one', 'bridge', 'down', state='fault', advice='take the ferry')\n"
    )
    install("d-one", {"td_one": "td_one"}, {"td_one": text})
    path = install("d-none", {}, {}) / "c.ini"
    path.write_text("[td_one]\nsize = 3\n")
    report = examine(str(path))

    assert found(report, "td_one", "weather").value == "fine"
    assert found(report, "[td_one]", "colour").value == "blue"
    assert found(report, "[td_one]", "size").source == f"{path}:2"
    assert report.advice()[:2] == ["will not work:", "  td_one, bridge: take the ferry"]


def test_a_backend_whose_findings_fail_hurts_no_other(install):
    """It is named, as a fault of its own."""
    install("d-bad", {"td_bad": "td_bad"}, {"td_bad": GOOD + "\ndef Examine(config): 1 / 0\n"})
    report = examine()

    assert "ZeroDivisionError" in found(report, "backends", "td_bad itself").advice
    assert found(report, "start methods", "possible").value


@pytest.mark.parametrize(("config", "state"), [("", "note"), ("[td_lost]\n", "fault")])
def test_a_backend_that_does_not_load_is_a_fault_only_if_it_is_wanted(install, config, state):
    """Nobody needs all backends; who has configured one does need it."""
    folder = install("d-lost", {"td_lost": "td_lost"}, {"td_lost": "import no_such_module"})
    (folder / "c.ini").write_text(config)
    finding = found(examine(str(folder / "c.ini")), "backends", "td_lost")

    assert (finding.value, finding.state) == ("not usable", state)
    assert "no_such_module" in finding.advice


def test_plugins_are_on_off_or_broken(install):
    """With the reason; a name that no plugin has is worth knowing, and no fault."""
    modules = {"td_good": PLUGIN, "td_quiet": PLUGIN, "td_broken": "1/0"}
    folder = install("d-plugins", {name: name for name in modules}, modules, group="pools.plugins")
    (folder / "c.ini").write_text("[pool]\nplugins_off = td_quiet, td_nobody\n")
    done = doctor("--config", folder / "c.ini", "--json", path=[folder])
    told = {one["name"]: one for one in json.loads(done.stdout)["findings"] if one["topic"] == "plugins"}

    assert done.returncode == 0, done.stdout
    assert told["td_good"]["value"] == "on"
    assert told["td_quiet"]["value"] == "off, by plugins_off"
    assert (told["td_broken"]["value"], told["td_broken"]["state"]) == ("broken", "note")
    assert "ZeroDivisionError" in told["td_broken"]["advice"]
    unknown = told["switched off: td_nobody"]
    assert (unknown["state"], unknown["source"]) == ("note", f"{folder / 'c.ini'}:2")
    assert "there are: td_broken, td_good, td_quiet" in unknown["advice"]


# --- the machine ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cpus", "why"),
    [
        (Cpus(seen=8, affinity=8, quota=None, usable=8), "all of the machine"),
        (Cpus(seen=8, affinity=4, quota=None, usable=4), "the affinity"),
        (Cpus(seen=8, affinity=8, quota=1.5, usable=2), "the quota, rounded up"),
        (Cpus(seen=8, affinity=4, quota=6.0, usable=4), "the affinity"),
    ],
)
def test_the_limit_that_decides_is_named(cpus, why):
    """Else nobody knows where to look when there are fewer than expected."""
    usable = [one for one in examine_cpus(cpus) if one.name == "usable"]

    assert [(one.value, one.source) for one in usable] == [(cpus.usable, why)]


@pytest.mark.parametrize(("most", "state"), [(None, "well"), (1024, "well"), (128, "fault")])
def test_too_few_descriptors_for_the_workers_are_a_fault(most, state):
    """With the command that mends it."""
    finding = descriptors(16, most)

    assert finding.state == state
    assert (f"ulimit -n {finding.value}" in finding.advice) == (state == "fault")


def test_more_workers_than_cpus_are_worth_knowing():
    """Good for tasks that wait, bad for those that compute."""
    assert workers(4, 4).state == "well"
    assert workers(5, 4).state == "note"


@pytest.mark.parametrize(
    ("options", "environ", "value", "state"),
    [
        ({"n_jobs": 2}, {}, {"each library": 2}, "well"),
        ({"n_jobs": 2, "blas_threads": 3}, {"OMP_NUM_THREADS": "8"}, {"each library": 3}, "well"),
        ({"n_jobs": 2, "blas_threads": None}, {}, "as many as they choose", "well"),
        ({"n_jobs": 2}, {"MKL_NUM_THREADS": "1"}, {"MKL_NUM_THREADS": "1", "the others": 2}, "well"),
        ({"n_jobs": 2}, {"MKL_NUM_THREADS": "4"}, {"MKL_NUM_THREADS": "4", "the others": 2}, "note"),
    ],
)
def test_threads_of_numerical_libraries_in_a_worker(monkeypatch, options, environ, value, state):
    """What options and environment come to; too many for the CPUs are worth knowing."""
    monkeypatch.setattr("pools_multicore.settings.cpu_count", lambda: 4)
    monkeypatch.setattr("pools_multicore.settings.available_cpus", lambda: frozenset(range(4)))
    finding = threads(MulticoreSettings(**options), 4, environ)

    assert (finding.value, finding.state) == (value, state)


def test_variables_of_numerical_libraries_are_shown():
    """Those that are set, by name."""
    finding = next(iter(examine_blas({"OMP_NUM_THREADS": "3", "HOME": "/"})))

    assert finding.value == {"OMP_NUM_THREADS": "3"}


# --- the report -----------------------------------------------------------------------------------


def test_faults_come_before_notes_and_each_says_what_to_do():
    """The last lines are what a tired person reads."""
    note = Finding("a", "b", 1, "", "note", "mind the gap")
    fault = Finding("c", "d", None, "", "fault", "call the fire brigade")

    report = Report((note, fault))
    assert report.advice() == [
        "will not work:",
        "  c, d: call the fire brigade",
        "worth knowing:",
        "  a, b: mind the gap",
    ]
    assert not report.is_well
    assert Report((note,)).is_well
    assert Report((Finding("a", "b", 1),)).advice() == ["all is well"]
    assert report.rows() == [["a", "b", "NOTE: 1"], ["c", "d", "FAULT: none"]]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "none"),
        (True, "yes"),
        (5.0, "5"),
        (["a", 1], "a, 1"),
        ({"a": None, "b": 2}, "a none, b 2"),
        ([], "none"),
    ],
)
def test_values_as_people_read_them(value, text):
    """No brackets and quotes."""
    assert shown(value) == text
