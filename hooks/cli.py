"""`pilot-checks`: the conventions, checked on a pilot."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from pilot_template.hooks.check import Check, Severity, run
from pilot_template.hooks.checks import CHECKS
from pilot_template.hooks.result import Outcome, Status
from pilot_template.hooks.tree import Tree

EXIT_CODES = "Exit codes: 0 nothing is wrong, 1 a check failed, 2 wrong use, 3 a check could not look."


def main(arguments: Sequence[str] | None = None) -> int:
    """Check a pilot and print what is wrong."""
    options = _parser().parse_args(arguments)
    if options.list:
        for check in CHECKS:
            print(f"{check.id}  {check.name:<21} {check.says}")
        return 0
    wanted = [*options.ids, *options.only]
    unknown = [each for each in wanted if not any(each in (check.id, check.name) for check in CHECKS)]
    if unknown:
        print(
            f"pilot-checks: there is no check {unknown[0]}. `pilot-checks --list` says what there is.",
            file=sys.stderr,
        )
        return 2
    if not options.root.is_dir():
        print(f"pilot-checks: {options.root}: there is no such folder. Name the pilot's.", file=sys.stderr)
        return 2
    chosen = [check for check in CHECKS if not wanted or check.id in wanted or check.name in wanted]
    tree = Tree(options.root.resolve(), same_version=options.same_version)
    outcomes = [(check, run(check, tree)) for check in chosen]
    if options.json:
        print(
            json.dumps([_told(check, outcome) for check, outcome in outcomes], indent=2, ensure_ascii=False)
        )
    else:
        _print(outcomes)
    return _exit_code(outcomes)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pilot-checks", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("ids", nargs="*", metavar="ID", help="a check, by id or name; all when left out")
    parser.add_argument("--only", action="append", default=[], metavar="ID", help="the same as naming it")
    parser.add_argument("--root", type=Path, default=Path(), help="the pilot's folder; by default this one")
    parser.add_argument("--json", action="store_true", help="print the outcomes as JSON")
    parser.add_argument("--list", action="store_true", help="list the checks")
    same = (
        "the pilot is of the version that these checks are of: hold it to the list of files that they carry"
    )
    parser.add_argument("--same-version", action="store_true", help=same)
    return parser


def _told(check: Check, outcome: Outcome) -> dict[str, object]:
    return {"name": check.name, "severity": str(check.severity), **outcome.as_json()}


def _print(outcomes: list[tuple[Check, Outcome]]) -> None:
    for check, outcome in outcomes:
        for finding in outcome.findings:
            print(f"{check.id} {finding}")
        if outcome.reason:
            print(f"{check.id} {check.name}: {outcome.status}: {outcome.reason}")
    if len(outcomes) > 1:
        counted = {status: sum(outcome.status is status for _, outcome in outcomes) for status in Status}
        print(", ".join(f"{number} {status}" for status, number in counted.items() if number))


def _exit_code(outcomes: list[tuple[Check, Outcome]]) -> int:
    errors = {outcome.status for check, outcome in outcomes if check.severity is Severity.ERROR}
    if Status.FAILED in errors:
        return 1
    return 3 if any(outcome.status is Status.UNKNOWN for _, outcome in outcomes) else 0


if __name__ == "__main__":
    sys.exit(main())
