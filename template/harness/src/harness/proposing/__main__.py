"""``python -m harness.proposing``: what `make propose-update` runs in CI.

Exit codes: 0 there is a request, or nothing to update; 2 and 3 as `pilot update` ended, or 2 because the
request could not be made.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from harness.errors import PilotError
from harness.proposing.forge import here
from harness.proposing.propose import NotUpdated, propose


def main() -> int:
    """Propose the template's newest version."""
    try:
        print(propose(Path.cwd(), here(os.environ)))
    except NotUpdated as error:
        return error.code  # `pilot update` has said why
    except PilotError as error:
        print(f"make propose-update: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
