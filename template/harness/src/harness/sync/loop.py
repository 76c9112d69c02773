"""Asking again and again, and saying what changed: the loop of ``pilot sync run``."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

from harness.errors import PilotError
from harness.settings import Settings
from harness.sync.answers import Source
from harness.sync.once import Synced, sync_once

# Many hosts that were started at once are not to ask all at once for ever.
JITTER = 0.1
# What goes on unchanged is said again after so long: a log that is silent says nothing.
SAY_AGAIN_S = 60.0


@dataclass(frozen=True)
class Told:
    """What came of one question.

    Attributes:
        synced: The answer; None when there was none.
        error: Why there was none.
        news: Whether it is another one than the time before.
    """

    synced: Synced | None
    error: PilotError | None
    news: bool


def sync_again_and_again(
    settings: Settings,
    source: Source,
    ended: threading.Event,
    tell: Callable[[Told], None],
    *,
    every_s: float,
) -> None:
    """Ask until ``ended`` is set; no error ends it, because only the next answer can mend one.

    Args:
        settings: The pilot's settings.
        source: The flag service.
        ended: Set when it is to end.
        tell: Told what came of a question when that is news, and now and then when it is not.
        every_s: Seconds between the beginnings of two questions, give or take a tenth.
    """
    last, said_at = "", -SAY_AGAIN_S
    while not ended.is_set():
        began = time.monotonic()
        synced, error = _asked(settings, source)
        state = error.what if synced is None and error else f"{synced and synced.answer}"
        if state != last or began - said_at >= SAY_AGAIN_S:
            tell(Told(synced, error, state != last))
            last, said_at = state, began
        period = every_s * random.uniform(1 - JITTER, 1 + JITTER)
        ended.wait(max(0.0, began + period - time.monotonic()))


def _asked(settings: Settings, source: Source) -> tuple[Synced | None, PilotError | None]:
    try:
        return sync_once(settings, source), None
    except PilotError as error:
        return None, error
    except OSError as error:
        told = PilotError(
            error.strerror or str(error), where=str(error.filename or "pilot sync"), mend="Mend it."
        )
        return None, told
