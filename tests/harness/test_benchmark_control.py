"""benchmarks/control.py in a few rounds, so that it cannot rot; what it measured is not judged here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from rendering import ROOT

SCRIPT = ROOT / "benchmarks" / "control.py"
WITHOUT = """
import runpy, sys
sys.modules["UnleashClient"] = None
sys.argv = [sys.argv[1], "--quick"]
sys.path.insert(0, sys.argv[0].rpartition("/")[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def cells(printed: str) -> dict[str, list[str]]:
    lines = [line for line in printed.splitlines() if line.startswith("| ")]
    rows = [[cell.strip() for cell in line.strip("| ").split(" | ")] for line in lines]
    return {row[0]: row[1:] for row in rows}


@pytest.mark.slow
def test_after_a_stop_no_request_reaches_the_model_and_the_peers_show_what_polling_does(
    tmp_path: Path,
) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "--quick"], cwd=tmp_path, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stderr
    found = cells(done.stdout)

    def one(pattern: str) -> list[str]:
        matching = [row for what, row in found.items() if re.fullmatch(pattern, what)]
        assert len(matching) == 1, (pattern, done.stdout)
        return matching[0]

    # Order and identity, not times: these hold on a machine of any speed.
    assert one("kill: of [0-9,]+ requests after its return, to the model")[0] == "0"
    assert one("kill: last request to the model, after the return, max of 6")[3].endswith(": met")
    for kind in ("a stop restored with an older time", "the file truncated", "the file deleted"):
        assert one(f"{kind}: of 400 requests, to the model")[0] == "0"
    assert done.stdout.count("| 400 ") == 3, "flagd's FILE provider has learnt something: renew the pages"
    assert {
        "µs" in found["Control.permission, KILL looked for"][0],
        "ms" in one("kill: the call takes")[0],
    } == {True}
    assert "nothing was kept" in done.stdout


def test_a_missing_peer_is_told_in_one_line(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, str(SCRIPT)], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    assert done.stderr == "benchmarks/control.py: unleashclient not installed. Run `make setup`.\n"


def test_a_request_counts_by_its_start(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SCRIPT.parent))
    from stopping import Asked, distribution, judged, quiet

    asked = [Asked(1.0, True), Asked(2.0, True), Asked(3.5, False), Asked(4.5, True), Asked(5.0, False)]
    found = judged(asked, 2.5, 4.0)
    assert (found.after_call, found.after_return, found.took) == (2000.0, 500.0, 1500.0)
    assert (found.late, found.seen) == (1, 2)
    assert quiet([Asked(4.5 + number, False) for number in range(50)], 4.0)
    assert not quiet([Asked(4.5, True), *(Asked(4.5 + number, False) for number in range(49))], 4.0)
    assert not quiet([Asked(3.5 + number, False) for number in range(50)], 4.0)
    rows = distribution("x", [float(number) for number in range(1, 101)])
    assert [row.measured for row in rows] == [[50.0], [99.0], [100.0]]
