"""A team's own signals: ``src/<package>/monitors.py``, one function, and monitoring.yaml says what they mean.

The file may be absent. It holds::

    def signals(window: Window) -> list[Measured]:

which is called once for each window and gives one ``Measured`` for each signal that monitoring.yaml declares
with ``measure: own``. Threshold, samples, windows and action are declared there, as for every other signal. A
value above the threshold breaches. Whatever goes wrong in the file is a failure of the signal, told and
alerted: a monitor that is broken is not one that finds nothing.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import PilotError, told

if TYPE_CHECKING:
    import polars as pl

FILE = "monitors.py"


@dataclass(frozen=True)
class Measured:
    """What a team's own signal found in one window.

    Attributes:
        name: The signal's id in monitoring.yaml.
        value: The figure that is held against the threshold; None when the window says nothing.
        samples: How many records it stands on; held against min_samples.
        detail: A few words for people. No personal data: it is shown in alerts.
    """

    name: str
    value: float | None
    samples: int
    detail: str = ""


@dataclass(frozen=True)
class Window:
    """One window, as a team's own signals see it.

    Attributes:
        start: Its first moment, UTC.
        end: The first moment after it.
        model: The digest of the model that was to decide.
        read: Reads the decisions.
    """

    start: datetime
    end: datetime
    model: str
    read: Callable[[], pl.DataFrame]

    def decisions(self) -> pl.DataFrame:
        """The decisions that the model was to make: one row each.

        The columns are decided_at, record_key, entity, decision (as JSON), score, served_by, assigned and
        why, as harness.store.Decision explains them, and ``record``, a struct of the contract's fields.
        """
        return self.read()


def measure(
    package: str, root: Path, windows: Sequence[Window], declared: Sequence[str]
) -> tuple[list[dict[str, Measured]], dict[str, str]]:
    """Ask monitors.py about each window.

    Args:
        package: The team's package.
        root: The pilot's folder.
        windows: The windows.
        declared: The signals that monitoring.yaml declares with ``measure: own``.

    Returns:
        What was measured in each window, by signal; and what went wrong, by signal, or by the file where no
        signal is to blame.
    """
    try:
        signals = _load(package)
        if signals is None:
            return [{} for _ in windows], dict.fromkeys(declared, f"there is no {FILE} that measures it")
        found = [_checked(signals(window)) for window in windows]
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # sys.exit() in a library is a failure like any other
        said = str(told(error, root, FILE))
        return [{} for _ in windows], dict.fromkeys(declared or (FILE,), said)
    problems = {}
    for name in declared:
        if not all(name in each for each in found):
            problems[name] = f"{FILE} does not measure it"
        bad = [value for each in found if name in each for value in _no_numbers(each[name])]
        if bad:
            problems[name] = f"{FILE} gave {bad[0]!r}, which is no number to hold against a threshold"
    for name in sorted({name for each in found for name in each} - set(declared)):
        problems[name] = f"{FILE} measures it, and monitoring.yaml does not declare it with `measure: own`"
    return found, problems


def _load(package: str) -> Callable[[Window], Any] | None:
    if importlib.util.find_spec(f"{package}.monitors") is None:
        return None
    module = importlib.import_module(f"{package}.monitors")
    signals: Callable[[Window], Any] | None = getattr(module, "signals", None)
    if signals is None:
        raise PilotError(
            "signals is not defined", where=FILE, mend="Define it, or remove the file: it may be absent."
        )
    return signals


def _checked(given: Any) -> dict[str, Measured]:
    if not isinstance(given, list) or not all(isinstance(each, Measured) for each in given):
        raise PilotError(
            f"signals() gave a {type(given).__name__} and no list of harness.monitor.Measured",
            where=FILE,
            mend="Return one Measured for each signal.",
        )
    names = [each.name for each in given]
    twice = sorted({str(name) for name in names if names.count(name) > 1})
    if twice:
        raise PilotError(
            f"signals() measures '{twice[0]}' twice", where=FILE, mend="Return one Measured for each signal."
        )
    return {each.name: each for each in given}


def _no_numbers(measured: Measured) -> list[Any]:
    """What the team's own code gave where a number has to be; it may be anything."""
    given: list[Any] = [measured.samples] if measured.value is None else [measured.value, measured.samples]
    return [each for each in given if not isinstance(each, Real) or not math.isfinite(each)]
