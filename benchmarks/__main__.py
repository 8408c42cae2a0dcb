"""The command: ``python -m benchmarks --help``, from the root of the repository."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.cases import CASES, GROUPS, Case, choose
from benchmarks.libraries import LIBRARIES, LIMIT
from benchmarks.page import write_page
from benchmarks.report import Report, as_json, as_table, from_json, rows_of, verdicts_of
from benchmarks.runner import Samples, Settings, measure, missing


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, or read what was measured; print the table, write what was asked for."""
    args = options().parse_args(argv)
    report = read(args.read) if args.read else run(args)
    print(*report.headline(), "", sep="\n")
    rows = rows_of(report.samples)
    for case in dict.fromkeys(row.case for row in rows):
        print(f"{case.name}: {case.what}")
    print("", as_table(rows), sep="\n")
    missed = [verdict.case.name for verdict in verdicts_of(report.samples) if verdict.misses]
    print("", "below their goals: " + (", ".join(missed) or "none"), sep="\n")
    write(report, args.json, args.plot, args.docs)


def options() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="What pools cost, side by side."
    )
    names = [*GROUPS, *(case.name for case in CASES)]
    cases = {"action": "append", "choices": names, "metavar": "NAME"}
    parser.add_argument("--case", **cases, help="only this case, or group of cases (repeatable)")  # type: ignore[arg-type]
    libraries = {"action": "append", "choices": [*LIBRARIES, LIMIT], "metavar": "NAME"}
    parser.add_argument("--lib", **libraries, help="only this library (repeatable)")  # type: ignore[arg-type]
    parser.add_argument("--list", action=Listing, nargs=0, help="name all cases and libraries, and end")
    parser.add_argument(
        "--rounds", type=int, help="processes per library and case; default 5, with --quick 2"
    )
    parser.add_argument("--quick", action="store_true", help="small sizes: for a look, not for a claim")
    parser.add_argument("-j", "--jobs", type=int, default=2, help="workers per pool; default 2")
    parser.add_argument(
        "--limit", type=float, default=120, help="seconds before a library is left out of a case; default 120"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write everything here, after each round")
    parser.add_argument("--plot", type=Path, metavar="FILE.svg", help="draw a chart")
    parser.add_argument("--docs", type=Path, metavar="FILE.md", help="put the results into this page")
    parser.add_argument(
        "--read",
        type=Path,
        action="append",
        metavar="FILE",
        help="do not measure: read this JSON (repeatable)",
    )
    return parser


class Listing(argparse.Action):
    """Print what there is, and end."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Do so."""
        for case in CASES:
            print(f"{case.group:10} {case.name:22} {case.what}")
        for name, kind in LIBRARIES.items():
            print(f"{'library':10} {name:22} {kind.version() or 'not installed'}")
        parser.exit()


def run(args: argparse.Namespace) -> Report:
    """Measure."""
    names = [name for name in (*LIBRARIES, LIMIT) if not args.lib or name in args.lib]
    installed = [name for name in names if name == LIMIT or LIBRARIES[name].version() is not None]
    cases = choose(args.case)
    say_what_is_missing(cases, [name for name in names if name not in installed])
    settings = Settings(args.rounds or (2 if args.quick else 5), args.jobs, args.quick, args.limit)
    report = Report.begun(installed, settings)

    def keep(samples: list[Samples]) -> None:
        write(report.with_samples(samples), args.json, None, None)

    return report.with_samples(measure(cases, installed, settings, keep))


def say_what_is_missing(cases: list[Case], libraries: list[str]) -> None:
    """Name the libraries and modules that are not installed, on standard error."""
    absent = [name for name in libraries if not LIBRARIES[name].optional]
    if absent:
        print(f"not installed: {', '.join(absent)}", file=sys.stderr)
    for case in cases:
        if missing(case):
            print(f"{case.name} is left out: it needs {', '.join(missing(case))}", file=sys.stderr)


def read(files: list[Path]) -> Report:
    """Put the reports of several runs together; for the same case and library, the last one counts."""
    reports = [from_json(json.loads(file.read_text())) for file in files]
    samples = {(found.case, found.library): found for report in reports for found in report.samples}
    order = {case.name: place for place, case in enumerate(CASES)}
    return reports[-1].with_samples(sorted(samples.values(), key=lambda found: order[found.case]))


def write(report: Report, to_json: Path | None, plot: Path | None, docs: Path | None) -> None:
    """Write the files that were asked for."""
    if to_json is not None:
        to_json.write_text(json.dumps(as_json(report), indent=2) + "\n")
    if docs is not None and plot is None:
        plot = docs.with_suffix(".svg")
    if plot is None:
        return
    from benchmarks.plot import draw  # matplotlib is needed only here

    drawn = draw(report, plot)
    if docs is not None:
        write_page(docs, report, drawn)


if __name__ == "__main__":
    main()
