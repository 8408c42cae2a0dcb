"""What a worker imports, counted in modules, never in seconds: each process that starts pays for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import pools_core
import pools_multicore

HEAVY = {
    "asyncio",
    "click",
    "cloudpickle",
    "concurrent",
    "hashlib",
    "importlib.metadata",
    "logging",
    "numpy",
    "pluggy",
    "psutil",
    "random",
    "rich",
}
"""What neither a fork server nor a fresh interpreter needs."""

UNNEEDED = HEAVY | {
    "importlib",
    "multiprocessing",
    "pickle",
    "pkgutil",
    "re",
    "runpy",
    "signal",
    "subprocess",
    "typing",
}
"""With what a fresh interpreter can do without, too: ``multiprocessing`` takes it for any child process."""

SCRIPT = """
import sys

from pools_core import MakePool

def of_the_script(item):
    return item


if __name__ == "__main__":
    with MakePool("multicore", n_jobs=1, start_method=sys.argv[1]) as pool:
        pool.map(abs, [1, (-2) ** 40])
        pool.map(of_the_script, [1])
        pool.starmap(divmod, [(7, 2), (8, 3)])
        print(*pool.apply(eval, ("sorted(__import__('sys').modules)",)))
"""


def loaded(*arguments: str) -> set[str]:
    """Return the module names that a fresh interpreter prints."""
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, check=True, timeout=60
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def bare() -> set[str]:
    """What a bare interpreter has: site and the finders of editable installs are not ours to answer for."""
    return loaded("-c", "import sys; print(*sys.modules)")


def heavy(names: set[str], unwanted: set[str] = HEAVY) -> set[str]:
    """Return those of the heavy modules that are among some names, themselves or a part of them."""
    return {name for name in names if any(name == one or name.startswith(f"{one}.") for one in unwanted)}


@pytest.fixture
def without_site(monkeypatch) -> None:
    """Interpreters find what is installed here, though started with ``-S``.

    The finders of an editable install import half of what is looked for, and would hide the other half.
    """
    folders = [Path(module.__file__).parents[1] for module in (pools_core, pools_multicore)]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*map(str, folders), *sys.path]))


@pytest.mark.usefixtures("without_site")
def test_importing_the_worker_loads_nothing_heavy():
    """A spawned worker does that before anything else."""
    names = loaded("-S", "-c", "import pools_multicore.worker, sys; print(*sys.modules)")

    assert "pools_multicore.worker" in names
    assert heavy(names, UNNEEDED) == set()


@pytest.mark.usefixtures("without_site")
@pytest.mark.parametrize(
    ("command", "needed"),
    [(["script.py"], set()), (["-m", "script"], {"importlib"})],
    ids=["script", "module"],
)
def test_a_spawned_worker_that_runs_plain_tasks_never_loads_what_it_can_do_without(
    tmp_path, monkeypatch, command, needed
):
    """From its first instruction to its last task, the main module between them."""
    (tmp_path / "script.py").write_text(SCRIPT)
    monkeypatch.chdir(tmp_path)

    names = loaded("-S", *command, "spawn")

    assert "pools_multicore.worker" in names
    assert "__mp_main__" in names
    assert heavy(names, UNNEEDED - needed) == set()


def test_importing_the_worker_loads_its_own_half_of_the_core_only(bare):
    """Neither the pool's side nor another backend."""
    names = loaded("-c", "import pools_multicore.worker, sys; print(*sys.modules)")
    callers = {
        "pool",
        "pump",
        "flow",
        "registry",
        "plugins",
        "hookspecs",
        "config",
        "cli",
        "testing",
        "protocol",
    }

    assert {f"pools_core.{name}" for name in callers} & names == set()
    assert {
        "pools_threads",
        "pools_singlecore",
        "pools_multicore.engine",
        "pools_multicore.pool",
    } & names == set()


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_a_worker_that_runs_plain_tasks_never_loads_anything_heavy(bare, tmp_path, start_method):
    """Not even later: what opening plain items, running and answering needs is there already."""
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)

    names = loaded(str(script), start_method)

    assert "pools_multicore.worker" in names
    assert "pools_core.pool" not in names
    assert heavy(names - bare) == set()


def test_heavy_modules_would_be_noticed(bare):
    """The test above can fail: this is what it looks for."""
    names = loaded("-c", "import hashlib, importlib.metadata, random, sys; print(*sys.modules)")

    assert {"hashlib", "random", "importlib.metadata"} <= heavy(names - bare)


COLLECTING = """
import gc
import sys

from pools_core import MakePool

AT_IMPORT = gc.isenabled()


def look(_item):
    return AT_IMPORT, gc.isenabled(), gc.get_freeze_count() > 0


if __name__ == "__main__":
    with MakePool("multicore", n_jobs=1, start_method=sys.argv[1]) as pool:
        print(*pool.apply(look, (0,)))
"""


@pytest.mark.parametrize("start_method", ["spawn", "forkserver"])
def test_garbage_is_collected_from_the_main_script_on(tmp_path, start_method):
    """What a worker imports before, it keeps for good: looking through that would be for nothing."""
    script = tmp_path / "script.py"
    script.write_text(COLLECTING)

    done = subprocess.run(
        [sys.executable, str(script), start_method], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["True"] * 3
