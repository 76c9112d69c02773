"""PT201."""

from __future__ import annotations

from collections.abc import Iterator

from pilot_template.hooks.result import Finding
from pilot_template.hooks.tree import Tree


def governance_documents(tree: Tree) -> Iterator[Finding]:
    """Every governance document is there and says what can be read.

    The documents are the configuration of the gates, the monitor and the rollout. What is still TODO is no
    mistake here: `pilot readiness` says from which gate on it is one.
    """
    from harness.governance.documents import KINDS  # pydantic takes longer to load than the other checks run

    for kind in KINDS:
        for wrong in kind.examine(tree.root)[1]:
            what = f"{wrong.field}: {wrong.what}" if wrong.field else wrong.what
            yield Finding(kind.path, what, wrong.mend)
