"""The main job: counting the tokens of the standard library gives the same totals everywhere."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[1] / "examples" / "count_tokens.py"
SECONDS = 300


def count_tokens(*options: str) -> subprocess.CompletedProcess[str]:
    """Run the example to its end."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith("POOLS_")}
    return subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLE), *options],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=True,
    )


@pytest.fixture(scope="module")
def reference() -> str:
    """What the reference backend prints."""
    return count_tokens("--backend", "singlecore").stdout


@pytest.mark.parametrize("backend", ["threads", "multicore"])
def test_every_backend_prints_what_singlecore_prints(reference: str, backend: str) -> None:
    """Some 1,700 real files, large and small, some of which do not tokenize."""
    done = count_tokens("--backend", backend, "-j", "2")

    assert done.stdout == reference
    assert f"on <{'MulticorePool' if backend == 'multicore' else 'ThreadPool'}" in done.stderr


def test_the_totals_are_those_of_a_plain_loop(reference: str) -> None:
    """So that all backends are not wrong in the same way."""
    import importlib.util
    from collections import Counter

    spec = importlib.util.spec_from_file_location("count_tokens_example", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    totals: Counter[str] = Counter()
    failed = []
    for path in example.standard_library():
        try:
            totals += example.count_tokens(path)
        except Exception as error:
            failed.append(f"does not tokenize: {path}: {error}")

    printed = {
        kind: int(count.replace(",", ""))
        for kind, count in re.findall(r"^([A-Z_]+) +([\d,]+)$", reference, re.MULTILINE)
    }
    assert printed == dict(totals)
    assert [line for line in reference.splitlines() if line.startswith("does not")] == failed
    assert sum(totals.values()) > 100_000


def test_a_config_file_chooses_the_backend(tmp_path: Path, reference: str) -> None:
    """The program need not know where it runs."""
    config = tmp_path / "pools.ini"
    config.write_text("[pool]\nbackend = threads\n[threads]\nn_jobs = 2\n")

    done = count_tokens("--config", str(config))

    assert done.stdout == reference
    assert "ThreadPool" in done.stderr
