"""The command: ``python -m benchmarks --help``, from the root of the repository."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

from benchmarks.cases import CASES
from benchmarks.libraries import LIBRARIES
from benchmarks.report import as_json, as_table, machine, rows_of
from benchmarks.runner import measure


def main() -> None:
    """Measure, print the table, write the JSON."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What pools cost, side by side."
    )
    names = [case.name for case in CASES]
    parser.add_argument("--case", action="append", choices=names, help="only this case (repeatable)")
    parser.add_argument(
        "--lib", action="append", choices=list(LIBRARIES), help="only this library (repeatable)"
    )
    parser.add_argument(
        "--rounds", type=int, help="processes per library and case; default 5, with --quick 2"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: for a look, not for a claim")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="workers per pool; default 2")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds before a library is left out of a case"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write everything here, single times included"
    )
    args = parser.parse_args()

    cases = [case for case in CASES if not args.case or case.name in args.case]
    chosen = {name: kind for name, kind in LIBRARIES.items() if not args.lib or name in args.lib}
    installed = [name for name, kind in chosen.items() if kind.version() is not None]
    missing = [name for name in chosen if name not in installed]
    rounds = args.rounds or (2 if args.quick else 5)
    samples = list(
        measure(cases, installed, rounds=rounds, workers=args.jobs, quick=args.quick, limit=args.limit)
    )
    rows = rows_of(samples)

    here = machine()
    print(f"{here['processor']}, {here['cpus']} CPUs; {here['python']}; {here['system']}")
    print("; ".join(f"{name} {LIBRARIES[name].version()}" for name in installed))
    print(f"{args.jobs} workers, {rounds} rounds" + ("; small sizes (--quick)" if args.quick else ""))
    if missing:
        print(f"not installed: {', '.join(missing)}")
    print()
    for case in cases:
        print(f"{case.name}: {case.what}")
    print()
    print(as_table(rows))
    if args.json is not None:
        settings = {"workers": args.jobs, "rounds": rounds, "quick": args.quick, "load": os.getloadavg()}
        args.json.write_text(json.dumps(as_json(rows, samples, settings), indent=2) + "\n")


if __name__ == "__main__":
    main()
