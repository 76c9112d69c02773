"""What the monitor's latest report says of a model. Nothing is counted here that it counts."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from harness.rollout.standing import SLACK, Unclear

REPORT = Path("var", "monitor", "latest.json")
FRESH = timedelta(hours=26)
"""A report that is older says nothing of today: `pilot monitor` is to run every day at least."""

FINE = ("ok", "not_applicable")
"""What the monitor calls quiet; a signal that does not apply to this pilot is never raised."""

GRAVEST = ("breached", "failed")
"""What the monitor calls raised, the gravest first. What is neither this nor fine is not known."""

_AGAIN = "Run `pilot monitor`."


@dataclass(frozen=True)
class Signals:
    """The report.

    Attributes:
        at: The end of its newest window, UTC.
        verdicts: By signal: what the monitor says of it.
        why: By signal: in words.
    """

    at: datetime
    verdicts: dict[str, str]
    why: dict[str, str]


def latest(root: Path, digest: str, now: datetime, since: datetime) -> Signals:
    """What the latest report says of one model.

    Args:
        root: The pilot's folder.
        digest: The model.
        now: The moment of the question, UTC.
        since: A report of before it says nothing of this stage.

    Raises:
        Unclear: There is none, it is not readable, too old, dated ahead, or about another model.
    """
    try:
        said = json.loads((root / REPORT).read_text(encoding="utf-8"))
        at = datetime.fromisoformat(said["at"]).astimezone(UTC)
        roles = {model["role"] for model in said["models"] if model["digest"] == digest}
        # A model may be in the report in two roles: what is graver counts, and comes last here.
        signals = sorted(
            (each for each in said["signals"] if each["model"] in roles),
            key=lambda each: _gravity(str(each["verdict"])),
        )
        verdicts = {str(each["id"]): str(each["verdict"]) for each in signals}
        why = {str(each["id"]): str(each["why"]) for each in signals}
    except FileNotFoundError as error:
        raise Unclear("what the monitor says: it has not run", _AGAIN) from error
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        raise Unclear(f"what the monitor says: {REPORT} cannot be read", _AGAIN) from error
    if not roles:
        raise Unclear(
            f"what the monitor says of model {digest[:12]}: its latest report is about another", _AGAIN
        )
    if at < since:
        raise Unclear(
            f"what the monitor says of this stage: its latest report is of {at:%Y-%m-%d %H:%M}", _AGAIN
        )
    if not now - FRESH <= at <= now + SLACK:
        raise Unclear(f"what the monitor says today: its latest report is of {at:%Y-%m-%d %H:%M} UTC", _AGAIN)
    return Signals(at, verdicts, why)


def _gravity(verdict: str) -> int:
    if verdict in GRAVEST:
        return 1 + len(GRAVEST) - GRAVEST.index(verdict)
    return 0 if verdict in FINE else 1
