"""What importing costs, counted in modules that are not imported, never in seconds."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import pools_core

HEAVY = [
    "asyncio",
    "click",
    "cloudpickle",
    "concurrent.futures",
    "configparser",
    "importlib.metadata",
    "logging",
    "multiprocessing",
    "numpy",
    "platformdirs",
    "pluggy",
    "psutil",
    "rich",
    "socket",
    "threading",
    "tqdm",
]


def loaded_after(code: str) -> set[str]:
    """Return the modules that a fresh interpreter has loaded more, after some code."""
    # An editable install's finder and the interpreter's own start are not ours to answer for.
    program = f"import sys; before = set(sys.modules)\n{code}\nprint(*(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


@pytest.mark.parametrize("package", ["pools_core", "pools_singlecore", "pools_threads", "pools_multicore"])
def test_importing_a_package_loads_nothing_heavy(package):
    """A spawned child imports the package first, and a program that uses no pool should not pay."""
    loaded = loaded_after(f"import {package}")

    assert loaded & set(HEAVY) == set()
    assert not {name for name in loaded if name.startswith("pools_") and name.count(".")}


def test_asking_for_a_backend_loads_neither_the_command_nor_numbers():
    """click and rich belong to the command, numpy to the user."""
    loaded = loaded_after("from pools_core import MakePool\nMakePool('singlecore')")

    assert loaded & {"click", "rich", "numpy", "asyncio", "tqdm", "cloudpickle", "psutil"} == set()


def test_making_a_pool_loads_nothing_that_only_errors_and_lists_need():
    """The standard library's own reader of metadata may load what it likes."""
    first = "import importlib.metadata\nbefore.update(sys.modules)\n"
    loaded = loaded_after(first + "from pools_core import MakePool\nMakePool('multicore', n_jobs=1)")

    assert "pools_multicore" in loaded
    assert loaded & {"difflib", "json"} == set()


def test_installed_packages_are_looked_through_once():
    """For backends and for plugins alike."""
    count = (
        "from importlib import metadata\n"
        "scans, entry_points = [], metadata.entry_points\n"
        "metadata.entry_points = lambda **which: scans.append(which) or entry_points(**which)\n"
    )
    made = "from pools_core import MakePool\nMakePool('multicore', n_jobs=1)\n"
    loaded_after(count + made + "assert len(scans) == 1, scans")


def test_other_backends_are_not_loaded():
    """Asking for one imports only that one."""
    loaded = loaded_after("from pools_core import GetClusterPackage\nGetClusterPackage('singlecore')")

    assert "pools_singlecore" in loaded
    assert not {"pools_threads", "pools_multicore"} & loaded


def test_importing_reads_no_environment():
    """What a variable says is asked when it is needed."""
    loaded_after(
        "import os\n"
        "class Environ(dict):\n"
        "    def __getitem__(self, key): raise AssertionError(key)\n"
        "    get = __contains__ = __getitem__\n"
        "os.environ = Environ()\n"
        "import pools_core, pools_singlecore, pools_threads, pools_multicore\n"
    )


def test_all_is_sorted_and_there():
    """Public is what ``__all__`` says, and nothing in it is missing."""
    assert pools_core.__all__ == sorted(pools_core.__all__)
    for name in pools_core.__all__:
        assert getattr(pools_core, name) is not None
    assert set(pools_core.__all__) <= set(dir(pools_core))


def test_every_error_is_public():
    """They are the ones to catch."""
    from pools_core import errors

    assert set(errors.__all__) <= set(pools_core.__all__)


def test_an_unknown_name_is_an_attribute_error():
    """As from any module."""
    with pytest.raises(AttributeError, match="Makepool"):
        _ = pools_core.Makepool


@pytest.mark.parametrize("package", ["pools_singlecore", "pools_threads", "pools_multicore"])
def test_backends_export_what_they_say(package):
    """Lazily, but all of it."""
    import importlib

    module = importlib.import_module(package)
    for name in module.__all__:
        assert getattr(module, name) is not None
    assert list(module.config_sections) == [package.removeprefix("pools_")]
    with pytest.raises(AttributeError):
        _ = module.nothing


def test_installing_makes_only_the_packages_importable(tmp_path):
    """Neither a wheel nor an editable install may put ``tests`` or ``docs`` on anybody's path."""
    program = (
        "from importlib.util import find_spec\n"
        "if find_spec('pools_core') is None: raise SystemExit('not installed')\n"
        "print([n for n in ('tests', 'docs', 'backends', 'examples', 'benchmarks') if find_spec(n)])\n"
    )
    env = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    if "not installed" in done.stderr:
        pytest.skip("pools-core is not installed in this environment")
    assert done.stdout == "[]\n"
