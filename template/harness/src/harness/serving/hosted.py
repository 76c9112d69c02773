"""What runs in a model's own process: load the package that is named, then answer batches until the end.

Whatever the team's code raises is an answer. What the process writes on its connection is checked by the
service as if a stranger had sent it.
"""

from __future__ import annotations

import importlib
import json
import socket
import sys
import traceback
from collections.abc import Mapping
from dataclasses import asdict
from datetime import date
from io import BytesIO
from pathlib import Path
from typing import Any

import polars as pl

from harness.errors import PilotError, place
from harness.pilot import Choice
from harness.serving.limits import Limits
from harness.serving.scored import Scored, ScoreInvalid
from harness.serving.scorer import CodeFailed, Scorer, load_scorer
from harness.serving.wire import Ended, encode, exactly, receive, send

MOST_TRACE = 20_000


def run(channel: socket.socket) -> None:
    """Load and answer, until the service closes the connection."""
    try:
        asked = receive(channel, None)
        scorer = _loaded(channel, asked)
        while scorer is not None:
            call = receive(channel, None)
            if "columns" in call:
                for part in _answer_columns(scorer, call, exactly(channel, call["columns"], None)):
                    send(channel, part, None)
            else:
                send(channel, _answer(scorer, call), None)
    except Ended:
        pass


def _loaded(channel: socket.socket, asked: Mapping[str, Any]) -> Scorer | None:
    # The process was forked from one that other packages share.
    sys.path[:] = asked["path"]
    importlib.invalidate_caches()
    try:
        try:
            Limits(**asked["limits"]).apply()
        except (OSError, ValueError, OverflowError) as error:
            raise PilotError(
                f"the limits of the model's process cannot be set: {error}",
                where=str(asked["limits"]),
                mend="Choose limits that this account may set.",
            ) from error
        scorer = load_scorer(Path(asked["models"]), asked["digest"], asked["reasons"])
    except PilotError as error:
        told = {"what": error.what, "where": error.where, "mend": error.mend}
        send(channel, encode({"refused": told, "code": isinstance(error, CodeFailed)}), None)
        return None
    kind = "choice" if isinstance(scorer.decision, Choice) else "amount"
    send(channel, encode({"loaded": {"kind": kind, **asdict(scorer.decision)}}), None)
    return scorer


def _answer(scorer: Scorer, call: Mapping[str, Any]) -> bytes:
    records = [
        {
            name: date.fromisoformat(value) if name in scorer.dates and value is not None else value
            for name, value in record.items()
        }
        for record in call["records"]
    ]
    told = [_told(found) for found in scorer.score_all(records, reasons_s=call["reasons_s"])]
    return encode({"id": call["id"], "answers": told})


def _told(found: Scored | BaseException) -> dict[str, Any]:
    if isinstance(found, Scored):
        reasons = [[reason.feature, reason.value, reason.effect] for reason in found.reasons]
        return {"score": found.score, "reasons": None if found.pending else reasons}
    if isinstance(found, ScoreInvalid):
        return {"invalid": _described(found)}
    return {"failed": _described(found), "lacks": _lacks(found)}


def _answer_columns(scorer: Scorer, call: Mapping[str, Any], content: bytes) -> list[bytes]:
    """To many records at once, which came as an Arrow IPC stream: a message with the lengths of what follows
    it, the scores as doubles of eight bytes, and the reasons as JSON."""
    try:
        scores, reasons = scorer.scores(pl.read_ipc_stream(BytesIO(content)), call["reasons"])
        told = [[[each.feature, each.value, each.effect] for each in row] for row in reasons]
        parts = [scores.astype("<f8").tobytes(), json.dumps(told, allow_nan=False).encode()]
    except BaseException as error:  # sys.exit() and a native library's panic are failures like any other
        return [encode({"id": call["id"], **_told(error)})]
    return [encode({"id": call["id"], "scores": len(parts[0]), "reasons": len(parts[1])}), *parts]


def _described(error: BaseException) -> list[str]:
    """Type and place, which may be logged, and the traceback, which may hold somebody's data."""
    trace = "".join(traceback.format_exception(error))[-MOST_TRACE:]
    return [f"{type(error).__name__} at {place(error)}", trace]


def _lacks(error: BaseException | None) -> bool:
    """Whether something was imported that is kept away from models which do not name it."""
    while error is not None:
        if isinstance(error, ImportError) and error.name:
            name = error.name.partition(".")[0]
            if sys.modules.get(name, name) is None:
                return True
        error = error.__cause__ or error.__context__
    return False
