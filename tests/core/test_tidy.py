"""A program that uses pools leaves nothing that Python complains of in development mode (``-X dev``).

That shows every ``ResourceWarning``, also of what is found unclosed when the interpreter itself ends.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import itertools
import json
import sys
from concurrent.futures import as_completed

from pools_core import MakePool

def use(pool):
    assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
    assert {one.result() for one in as_completed(pool.submit(abs, i) for i in range(100))} == set(range(100))
    try:
        pool.map(divmod, [1, 2])  # fails
    except TypeError:
        pass
    results = pool.imap(abs, itertools.count())
    assert next(results) == 0
    return results

if __name__ == "__main__":
    end, backend, config, options = json.loads(sys.argv[1])
    pool = MakePool(backend, config, **options)
    kept = use(pool)
    if end == "closed":
        kept.close()
        pool.close()
        pool.join()
    elif end == "terminated":
        pool.terminate()
        pool.join()
    elif end == "dropped":
        del pool, kept
    else:
        kept = kept, [pool.submit(abs, i) for i in range(1000)]
    print("this is the end")
"""

ENDS = pytest.mark.parametrize("end", ["closed", "terminated", "dropped", "left as it is"])


def complaints(folder: Path, end: str, backend: str, config: str | None = None, **options: object) -> str:
    """Return what Python has to say of the program."""
    path = folder / "program.py"
    path.write_text(PROGRAM)
    done = subprocess.run(
        [sys.executable, "-X", "dev", str(path), json.dumps([end, backend, config, options])],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        env={**os.environ, "PYTHONWARNINGS": ""},
    )
    assert (done.returncode, done.stdout) == (0, "this is the end\n"), done.stderr
    return done.stderr


@ENDS
@pytest.mark.parametrize("backend", ["singlecore", "threads"])
def test_a_pool_of_threads_leaves_nothing(tmp_path, end, backend):
    """However it ends, and if the program ends first."""
    assert complaints(tmp_path, end, backend) == ""


@ENDS
@pytest.mark.parametrize("start_method", ["fork", "forkserver", "spawn"])
def test_a_pool_of_processes_leaves_nothing(tmp_path, end, start_method):
    """Neither it nor what it shares with other pools, such as the server that forks workers."""
    assert complaints(tmp_path, end, "multicore", start_method=start_method, n_jobs=2) == ""


@ENDS
def test_a_cluster_leaves_nothing(tmp_path, end, running_cluster):
    """Connections are closed, and the thread that serves them ends."""
    with running_cluster(tmp_path, dict(os.environ)) as config:
        assert complaints(tmp_path, end, "gearman", str(config)) == ""
