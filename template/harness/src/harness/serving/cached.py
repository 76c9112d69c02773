"""Scores of records that were asked about before, where the contract allows to keep them.

A score is kept under the model's digest and the whole record, so one model never answers with another's, and
no record with that of one that differs anywhere. What was decided is never kept: each request has its own
permission, its own record and its own name.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from harness.serving.scored import Scored


class Scores:
    """The scores that were asked for last.

    Args:
        most: How many are kept; the one that was asked for longest ago goes first. 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[str, str], Scored] = OrderedDict()

    def find(self, digest: str, record: Mapping[str, Any]) -> Scored | None:
        """What that model said of that record; None where it is not known any more."""
        if not self._most:
            return None
        name = digest, _canonical(record)
        with self._lock:
            found = self._kept.get(name)
            if found is not None:
                self._kept.move_to_end(name)
            return found

    def keep(self, digest: str, record: Mapping[str, Any], scored: Scored) -> None:
        """Keep what a model said; not without its reasons."""
        if not self._most or scored.pending:
            return
        name = digest, _canonical(record)
        with self._lock:
            self._kept[name] = scored
            self._kept.move_to_end(name)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)


def _canonical(record: Mapping[str, Any]) -> str:
    # As text: in Python 1, 1.0 and True are the same key, and a model may not take them for the same.
    return json.dumps(record, sort_keys=True, default=str, separators=(",", ":"))
