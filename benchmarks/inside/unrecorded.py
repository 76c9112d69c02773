"""`pilot`, with decisions that are recorded nowhere: what the durable record costs is the difference.

Run by the pilot's own Python. The store is replaced from here and nowhere in the product, where there is no
such switch. The process that workers are forked from imports this file too, so they record nothing either.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.store import DecisionStore


def _given(_store: DecisionStore, decisions: Any, *_more: Any) -> Any:
    return list(decisions) if isinstance(decisions, Sequence) else decisions


for name in ("record", "record_all"):
    if hasattr(DecisionStore, name):
        setattr(DecisionStore, name, _given)

if __name__ == "__main__":
    from harness.serving import forking

    forking.PRELOADED.append("unrecorded")
    from harness.cli import main

    main()
