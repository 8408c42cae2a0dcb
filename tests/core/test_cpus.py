"""How many CPUs this process may use, on machines made of files."""

from __future__ import annotations

import os

import pytest

from pools_core import cpus
from pools_core.cpus import cpu_count, describe_cpus


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Return a function that makes one: its control groups' files, our own group, our affinity."""
    monkeypatch.setattr(os, "cpu_count", lambda: 64)

    def make(own: str, files: dict[str, str], affinity: int = 16):
        monkeypatch.setattr(cpus, "available_cpus", lambda: frozenset(range(affinity)))
        for name, text in files.items():
            path = tmp_path / "cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        (tmp_path / "own").write_text(own)
        return describe_cpus(tmp_path / "cgroup", tmp_path / "own")

    return make


def test_without_groups_the_affinity_counts(machine):
    """A batch system or taskset gives a process some of the machine."""
    found = machine("", {})
    assert (found.seen, found.affinity, found.quota, found.usable) == (64, 16, None, 16)


@pytest.mark.parametrize(
    ("text", "quota", "usable"),
    [
        ("200000 100000\n", 2.0, 2),
        ("150000 100000\n", 1.5, 2),
        ("1000 100000\n", 0.01, 1),
        ("max 100000\n", None, 16),
        ("9900000 100000\n", 99.0, 16),
        ("", None, 16),
        ("nonsense\n", None, 16),
        ("100000 0\n", None, 16),
    ],
)
def test_a_quota_of_version_2_is_rounded_up(machine, text, quota, usable):
    """One and a half CPUs keep two workers busy; less than one still needs one."""
    found = machine("0::/job\n", {"job/cpu.max": text})
    assert (found.quota, found.usable) == (quota, usable)


def test_the_smallest_quota_on_the_way_up_counts(machine):
    """A group's ancestors limit it too."""
    files = {"a/b/c/cpu.max": "max 100000", "a/b/cpu.max": "300000 100000", "a/cpu.max": "500000 100000"}
    assert machine("0::/a/b/c\n", files).usable == 3


def test_in_a_container_the_root_is_its_own(machine):
    """The path in /proc may be the host's, or lie outside of the namespace."""
    assert machine("0::/docker/abc\n", {"cpu.max": "400000 100000"}).usable == 4
    assert machine("0::/../../other\n", {"cpu.max": "400000 100000"}).usable == 4


@pytest.mark.parametrize("folder", ["cpu,cpuacct", "cpu"])
def test_a_quota_of_version_1(machine, folder):
    """Its hierarchy is mounted under its controllers' names, or a link of one."""
    files = {f"{folder}/job/cpu.cfs_quota_us": "250000\n", f"{folder}/job/cpu.cfs_period_us": "100000\n"}
    found = machine("5:cpu,cpuacct:/job\n4:memory:/x\n", files)
    assert (found.quota, found.usable) == (2.5, 3)


def test_version_1_without_limit_is_minus_one(machine):
    """And a group of another controller says nothing of CPUs."""
    files = {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n", "cpuset/cpu.max": "1 1"}
    assert machine("5:cpu:/\n3:cpuset:/\n0::/\n", files).quota is None


def test_both_versions_at_once(machine):
    """systemd's hybrid mounts version 2 beside version 1; the smaller quota counts."""
    files = {
        "cpu/cpu.cfs_quota_us": "800000",
        "cpu/cpu.cfs_period_us": "100000",
        "unified/s/cpu.max": "600000 100000",
    }
    assert machine("5:cpu:/\n0::/s\n", files).usable == 6


def test_this_machine_has_at_least_one():
    """Whatever it is; and no environment variable changes that."""
    assert 1 <= cpu_count() <= (os.cpu_count() or 1)


def test_an_environment_variable_is_not_honoured(monkeypatch):
    """A limit for another program is no fact about this process."""
    before = cpu_count()
    for name in ("OMP_NUM_THREADS", "PYTHON_CPU_COUNT", "LOKY_MAX_CPU_COUNT"):
        monkeypatch.setenv(name, "77")
    assert cpu_count() == before


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system cannot pin a process")
def test_a_smaller_affinity_is_seen_at_once():
    """The count is not remembered."""
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert cpu_count() == 1
    finally:
        os.sched_setaffinity(0, before)
