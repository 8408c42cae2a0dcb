"""What type checkers make of users' code: the types that it has, and the mistakes that it holds.

The code stands in ``tests/typing``.  A checker sees our packages as it would see them installed: their
annotations, not their insides.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "tests" / "typing"
SOURCES = [str(ROOT), str(ROOT / "backends")]
SECONDS = 300

Lines = dict[str, dict[int, str]]
"""By file name, each line with an error, and what is said of it."""


def by_line(errors: list[tuple[str, int, str]]) -> Lines:
    found: Lines = {path.name: {} for path in FOLDER.glob("*.py")}
    for path, line, text in errors:
        found[Path(path).name][line] = text
    return found


def run(command: list[str], **environment: str) -> str:
    """Run a checker and return what it prints: there are mistakes in one of the files."""
    done = subprocess.run(
        command,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def mypy(tmp_path_factory) -> Lines:
    """What mypy says, without this project's settings."""
    cache = tmp_path_factory.mktemp("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--output=json"]
    command += ["--follow-imports=silent", f"--cache-dir={cache}", str(FOLDER)]
    told = [json.loads(line) for line in run(command, MYPYPATH=os.pathsep.join(SOURCES)).splitlines()]
    return by_line([(one["file"], one["line"], one["message"]) for one in told if one["severity"] == "error"])


@pytest.fixture(scope="module")
def pyright(tmp_path_factory) -> Lines:
    """What pyright says, or its twin that brings its own node."""
    program = shutil.which("basedpyright", path=str(Path(sys.executable).parent)) or shutil.which("pyright")
    if program is None:
        pytest.skip("neither basedpyright nor pyright is installed (pip install basedpyright)")
    folder = tmp_path_factory.mktemp("pyright")
    settings = {"include": [str(FOLDER)], "extraPaths": SOURCES, "typeCheckingMode": "strict"}
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    printed = run(
        [program, "--outputjson", "--level=error", "--pythonpath", sys.executable, "-p", str(folder)]
    )
    told = json.loads(printed)["generalDiagnostics"]
    return by_line([(one["file"], one["range"]["start"]["line"] + 1, one["message"]) for one in told])


@pytest.fixture(params=["mypy", "pyright"])
def checker(request) -> Lines:
    """What a checker says."""
    return request.getfixturevalue(request.param)


def test_users_code_has_the_types_that_it_expects(checker):
    """``map`` of a function that returns R is a list of R, and so on; without one cast."""
    assert checker["user_code.py"] == {}


def test_mistakes_are_found_each_in_its_line(checker):
    """A misspelt option, a wrong argument, a result taken for something else; and nothing besides."""
    lines = (FOLDER / "wrong_code.py").read_text().splitlines()
    marked = {number for number, line in enumerate(lines, 1) if line.endswith("# wrong")}

    assert set(checker["wrong_code.py"]) == marked, checker["wrong_code.py"]
