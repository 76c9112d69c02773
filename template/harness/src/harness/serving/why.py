"""Why the fallback decides in a model's place."""

from __future__ import annotations

import logging

from harness.control import Why
from harness.errors import PilotError
from harness.serving.breaker import BreakerOpen
from harness.serving.calls import Busy, Overloaded, TooSlow
from harness.serving.logs import failed
from harness.serving.processes import ModelDied
from harness.serving.scored import ScoreInvalid

log = logging.getLogger("harness.serving")


class RealData(Exception):
    """A model of real data, which does not decide in the sandbox."""


def why_of(error: BaseException) -> Why:
    """What to record of a model that did not answer; what the model did wrong is logged besides."""
    match error:
        case RealData():
            return Why.REAL_DATA_IN_SANDBOX
        case PilotError():
            return Why.MODEL_UNAVAILABLE
        case BreakerOpen():
            return Why.BREAKER_OPEN
        case Busy():
            return Why.MODEL_BUSY
        case Overloaded():
            return Why.OVERLOADED
        case TooSlow():
            log.error("the model took longer than its budget")
            return Why.MODEL_TOO_SLOW
        case ScoreInvalid():
            failed("the model gave no valid score", error)
            return Why.SCORE_INVALID
        case ModelDied():
            failed("the model died", error)
            return Why.MODEL_DIED
    failed("the model failed", error)
    return Why.MODEL_FAILED
