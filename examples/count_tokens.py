"""Count the tokens of every ``.py`` file of a folder, on any backend: by default of the standard library.

    python examples/count_tokens.py --backend multicore
    python examples/count_tokens.py --backend threads -j 2 src

The totals are the same on every backend.  Only the last line, on stderr, differs: the time.
"""

import argparse
import sys
import sysconfig
import time
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pools_core import Failure, MakePool


def count_tokens(path: Path) -> Counter[str]:
    """Return how often each token type occurs in one file."""
    with path.open("rb") as file:
        return Counter(tokenize.tok_name[token.type] for token in tokenize.tokenize(file.readline))


def sources(root: Path) -> list[Path]:
    """Return the files below a folder in sorted order, without what was installed there."""
    guests = {"site-packages", "dist-packages"}
    return sorted(path for path in root.rglob("*.py") if not guests & {*path.relative_to(root).parts})


def main() -> None:
    """Read the options, count, print the totals and the files that do not tokenize."""
    parser = argparse.ArgumentParser(description="Count the tokens of Python files.")
    library = sysconfig.get_path("stdlib")
    parser.add_argument("folder", nargs="?", type=Path, default=library, help="default: the standard library")
    parser.add_argument("--backend", help="by name; default: the configured one, or else multicore")
    parser.add_argument("--config", help="a .ini or .toml file with the backend's options")
    parser.add_argument("-j", "--jobs", type=int, help="number of workers; default: the backend's own")
    args = parser.parse_args()
    if not args.folder.is_dir():
        parser.error(f"{args.folder} is no folder")

    files = sources(args.folder)
    began = time.perf_counter()
    totals: Counter[str] = Counter()
    failures: dict[Path, Failure] = {}
    options = {} if args.jobs is None else {"n_jobs": args.jobs}
    with MakePool(args.backend, config=args.config, **options) as pool:
        results: Iterator[Any] = pool.imap(count_tokens, files, on_error="return")
        for path, counts in zip(files, results, strict=True):
            if isinstance(counts, Failure):
                failures[path] = counts
            else:
                totals += counts
        ran_on = repr(pool)
    seconds = time.perf_counter() - began

    for kind, count in sorted(totals.items()):
        print(f"{kind:<16}{count:>12,}")
    print(f"{'all':<16}{totals.total():>12,}  in {len(files) - len(failures):,} files")
    for path, failure in failures.items():
        print(f"does not tokenize: {path}: {failure.error}")
    print(f"{len(files):,} files in {seconds:.2f} s on {ran_on}", file=sys.stderr)


if __name__ == "__main__":
    main()
