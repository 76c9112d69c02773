"""Print held-back records as JSON. Run by the pilot's own Python, in its folder."""

from __future__ import annotations

import json
import sys

from harness.cli.decide import held_back
from harness.settings import load_settings

settings = load_settings()
count = int(sys.argv[1])
print(json.dumps([held_back(settings, number) for number in range(1, count + 1)], default=str))
