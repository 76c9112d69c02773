"""The command `pilot`: one file a group of verbs.

A verb imports what it needs when it runs: the service must not load the training stack, and `--help` must not
wait for either.
"""

from __future__ import annotations

import sys

from harness import interruption, startup

interruption.no_traceback()
startup.collect_rarely()

from harness.cli.ahead import import_ahead  # noqa: E402

import_ahead(sys.argv[1:])

from harness.cli.main import main  # noqa: E402

__all__ = ["main"]
