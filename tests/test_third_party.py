"""A backend in a distribution of its own, installed for real beside the built wheel of pools-core.

The scratch environment holds the two wheels and nothing else of ours; what they depend on, and pytest,
it sees in the environment that runs this test, so nothing is downloaded but the build backend.
"""

from __future__ import annotations

import faulthandler
import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
THIRD_PARTY = ROOT / "examples" / "third_party_backend"
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "pools_core", "backends")
SECONDS = 600


class Scratch:
    """An environment away from the source tree."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        self.work.mkdir()
        venv.create(folder / "venv", with_pip=False, symlinks=True)
        self.bin = folder / "venv" / "bin"
        self.site = Path(sysconfig.get_path("purelib", "venv", {"base": str(folder / "venv")}))
        # A path that a .pth file names is searched after this environment's own, and .pth files in it,
        # such as that of an editable install of pools-core, are not read.
        homes = {str(importlib.metadata.distribution(name).locate_file("")) for name in ("click", "pytest")}
        (self.site / "dependencies.pth").write_text("\n".join(sorted(homes)) + "\n")

    def install(self, *sources: Path) -> None:
        """Build a wheel of each source tree, and install the wheels."""
        for number, source in enumerate(sources):
            pip("wheel", "--no-deps", "--wheel-dir", str(self.folder / f"wheel{number}"), str(source))
            wheels = map(str, (self.folder / f"wheel{number}").glob("*.whl"))
            pip("--python", str(self.bin / "python"), "install", "--no-deps", "--no-index", *wheels)

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command of this environment."""
        environment = {
            key: value
            for key, value in os.environ.items()
            if not key.startswith("POOLS_") and key not in ("PYTHONPATH", "VIRTUAL_ENV")
        }
        environment["XDG_CONFIG_HOME"] = str(self.work)
        environment["COLUMNS"] = "200"
        return subprocess.run(
            [str(self.bin / command[0]), *command[1:]],
            cwd=self.work,
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    def python(self, program: str) -> str:
        """Run a program and return what it prints."""
        script = self.work / "program.py"
        script.write_text(program)
        done = self.run("python", "-W", "error", str(script))
        assert done.returncode == 0, done.stderr
        return done.stdout


def pip(*arguments: str) -> None:
    """Run pip; its output is shown when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Scratch:
    """The environment, with both wheels in it."""
    folder = tmp_path_factory.mktemp("scratch")
    ours = folder / "pools-core"
    ours.mkdir()
    for (
        name
    ) in SOURCES:  # a copy, so that the build leaves nothing in the source tree, nor finds anything old
        source = ROOT / name
        if source.is_dir():
            shutil.copytree(source, ours / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, ours)
    theirs = shutil.copytree(
        THIRD_PARTY, folder / "theirs", ignore=shutil.ignore_patterns("build", "*.egg-info")
    )
    made = Scratch(folder)
    made.install(ours, theirs)
    return made


def test_the_wheels_make_nothing_else_importable(scratch: Scratch) -> None:
    """A distribution that installs ``tests`` breaks other people's."""
    printed = scratch.python(
        "import importlib.util, pools_core\n"
        "names = ('tests', 'docs', 'backends', 'examples', 'benchmarks')\n"
        "print([name for name in names if importlib.util.find_spec(name)], pools_core.__file__)\n"
    )

    assert printed.startswith(f"[] {scratch.site}")


def test_it_is_used_by_name(scratch: Scratch) -> None:
    """With functions of the user's own script, which the children have never seen."""
    printed = scratch.python(
        "from pools_core import MakePool\n"
        "def area(side):\n"
        "    return side * side\n"
        "with MakePool('subprocess', n_jobs=2) as pool:\n"
        "    print(pool.backend, pool.size, pool.map(area, range(5)), sum(pool.imap(area, range(1000))))\n"
    )

    assert printed == f"subprocess 2 [0, 1, 4, 9, 16] {sum(side * side for side in range(1000))}\n"


def test_it_is_used_from_a_config_file(scratch: Scratch) -> None:
    """Its options are read by the same rules as those of any backend."""
    (scratch.work / "good.ini").write_text(
        "[pool]\nbackend = subprocess\n[subprocess]\nn_jobs = 3  ; three\n"
    )
    (scratch.work / "bad.ini").write_text("[pool]\nbackend = subprocess\n[subprocess]\nn_job = 3\n")

    printed = scratch.python(
        "from pools_core import ConfigError, MakePool\n"
        "with MakePool(config='good.ini') as pool:\n"
        "    print(pool.backend, pool.size, pool.map(hex, [10]))\n"
        "try:\n"
        "    MakePool(config='bad.ini')\n"
        "except ConfigError as error:\n"
        "    print(error)\n"
    )

    good, bad = printed.splitlines()
    assert good == "subprocess 3 ['0xa']"
    assert "bad.ini" in bad
    assert "n_job" in bad
    assert "n_jobs" in bad


def test_an_option_that_it_lacks_is_refused(scratch: Scratch) -> None:
    """Never ignored: somebody relies on it."""
    printed = scratch.python(
        "from pools_core import MakePool, UnsupportedOptionError\n"
        "with MakePool('subprocess', n_jobs=1) as pool:\n"
        "    def limit():\n"
        "        pool.map(abs, [1], task_timeout=1)\n"
        "    def pin():\n"
        "        MakePool('subprocess', cpu_ids=[0])\n"
        "    for attempt in (limit, pin):\n"
        "        try:\n"
        "            attempt()\n"
        "        except UnsupportedOptionError as error:\n"
        "            print(error.backend, error.option, 'multicore' in error.able)\n"
    )

    assert printed == "subprocess task_timeout True\nsubprocess cpu_ids True\n"


def test_the_command_knows_it(scratch: Scratch) -> None:
    """It lists it, maps with it, and runs its own command."""
    listed = scratch.run("pools", "backends")
    mapped = scratch.run("pools", "map", "--backend", "subprocess", "builtins:len", "three", "one")
    own = scratch.run("pools", "subprocess")

    assert listed.returncode == 0, listed.stderr
    [line] = [line for line in listed.stdout.splitlines() if "pools-subprocess" in line]
    assert "1.0" in line
    assert (mapped.returncode, mapped.stdout, mapped.stderr) == (0, "5\n3\n", "")
    assert own.returncode == 0, own.stderr
    assert "runs Python" in own.stdout


def test_it_keeps_the_contract(scratch: Scratch) -> None:
    """Its own tests pass, as its author would run them."""
    faulthandler.cancel_dump_traceback_later()  # they may take more than a minute; SECONDS bounds them
    tests = shutil.copytree(THIRD_PARTY / "tests", scratch.folder / "their-tests", dirs_exist_ok=True)
    shutil.copy(THIRD_PARTY / "pyproject.toml", tests)

    command = ["python", "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", f"{tests}/pyproject.toml"]
    done = scratch.run(*command, "-n", "4", str(tests))  # four: most of their time is waiting

    assert done.returncode == 0, done.stdout[-8000:] + done.stderr[-2000:]
    assert " passed" in done.stdout.splitlines()[-1]
