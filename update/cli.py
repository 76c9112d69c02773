"""`pilot-update`: the updater of this version. People run `pilot update`, which starts it."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from harness import interruption
from harness.errors import PilotError, unforeseen
from harness.progress import working
from pilot_template.update.report import Report, lines
from pilot_template.update.run import Wish, update

EXIT_CODES = "Exit codes: 0 done, 1 done and somebody has to decide, 2 refused and nothing changed."


def main(arguments: Sequence[str] | None = None) -> int:
    """Update a pilot and tell what was done."""
    interruption.end_cleanly()
    options = _parser().parse_args(arguments)
    if options.report is not None and (options.report.is_dir() or not options.report.parent.is_dir()):
        what = "the report cannot be written there"
        mend = "Name a file in a folder that is there, with --report."
        return _refuse(PilotError(what, where=str(options.report), mend=mend))
    wish = Wish(
        options.root,
        options.to,
        options.clone,
        dry=options.dry_run,
        apply=options.apply,
        tests=not options.no_tests,
    )
    try:
        with working(f"Updating to {options.to}") as progress:
            report = update(wish, progress)
    except KeyboardInterrupt:
        print("pilot: interrupted; nothing was changed", file=sys.stderr)
        return 130
    except PilotError as error:
        if options.debug:
            raise
        return _refuse(error)
    except Exception as error:  # a person gets one line, whatever it is
        if options.debug:
            raise
        return _refuse(unforeseen(error, options.root.resolve()))
    try:
        _tell(report, options)
    except OSError as error:  # the update is there, whoever can be told or not
        print(f"pilot: the report could not be written ({error.strerror}): {report.branch}", file=sys.stderr)
        return 1
    return report.exit_code


def _tell(report: Report, options: argparse.Namespace) -> None:
    text = "\n".join(lines(report)) + "\n"
    if options.report is not None:
        options.report.write_text(text, encoding="utf-8")
    if options.json:
        text = json.dumps(report.as_json(), indent=2, ensure_ascii=False, default=str) + "\n"
    sys.stdout.buffer.write(text.encode("utf-8", "replace"))
    sys.stdout.flush()


def _refuse(error: PilotError) -> int:
    print(f"pilot: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pilot-update", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("--root", type=Path, default=Path(), help="the pilot's folder; by default this one")
    own = version("pilot-template")
    parser.add_argument("--to", metavar="VERSION", default=own, help=f"the version; by default {own}")
    parser.add_argument("--clone", type=Path, help="a clone of the template that has it; made when left out")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and change nothing")
    parser.add_argument("--apply", action="store_true", help="merge the branch into the checkout")
    parser.add_argument("--no-tests", action="store_true", help="do not run the pilot's fast tests on it")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the report there too, as Markdown")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    sys.exit(main())
