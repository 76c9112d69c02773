"""From a source to a decision: what each step was made of, by hashes, from what runs left behind.

``trace`` follows it, ``events`` tells it as OpenLineage, ``drawn`` as a picture. Nothing of a record is in
it: counts, names of tables and columns, and hashes.
"""

from harness.lineage.chain import Chain, trace
from harness.lineage.openlineage import events
from harness.lineage.picture import drawn

__all__ = ["Chain", "drawn", "events", "trace"]
