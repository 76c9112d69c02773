"""`make release VERSION=1.2.3` and `make release-check`."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from release import record
from release.checks import wanted
from release.errors import ReleaseError, WrongUse
from release.perform import release

EXIT_CODES = (
    "Exit codes: 0 done, 1 a check failed and nothing was changed, 2 wrong use, 3 this clone is too "
    "shallow to check."
)


def main() -> int:
    """Check, or release."""
    parser = argparse.ArgumentParser(prog="python -m release", description=__doc__, epilog=EXIT_CODES)
    parser.add_argument("version", nargs="?", default="", help="the version to release, such as 1.2.3")
    parser.add_argument("--dry-run", action="store_true", help="check, and only say what would be done")
    parser.add_argument("--check", action="store_true", help="check what can be checked at any time")
    options = parser.parse_args()
    repository = Path(__file__).resolve().parents[1]
    try:
        if options.check and (options.version or options.dry_run):
            raise WrongUse("--check releases nothing. Leave out the version: make release-check")
        version = "" if options.check else wanted(options.version)
        if missing := record.missing_commits(repository):
            print(
                f"release: this clone is shallow and has no {missing[0]}. Run: git fetch --unshallow",
                file=sys.stderr,
            )
            return 3
        if not options.check:
            release(repository, version, print, dry_run=options.dry_run)
        elif wrong := record.all_findings(repository):
            raise ReleaseError(*wrong)
        else:
            print(f"This version takes nothing from any release: {', '.join(record.recorded(repository))}.")
    except WrongUse as error:
        print(f"release: {error}", file=sys.stderr)
        return 2
    except ReleaseError as error:
        for line in error.args:
            print(f"release: {line}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
