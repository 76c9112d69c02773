"""Alerts by Apprise, or into the log.

Three files below var/alerts: alerts.jsonl, every alert that was raised; undelivered.jsonl, those that reached
nobody, which the next run sends first; open.json, which troubles last and on which day each was last told.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from harness.files import whole_file

FOLDER = Path("var", "alerts")
RAISED, UNDELIVERED, OPEN, LOCK = "alerts.jsonl", "undelivered.jsonl", "open.json", "lock"
TO_LOG = "log"
# Apprise waits four seconds to connect and four between two bytes; a server that drips gets this long.
WITHIN_S = 20.0

log = logging.getLogger("harness.alerts")


@dataclass(frozen=True)
class Alert:
    """One message.

    Attributes:
        trouble: What it is about; one that lasts is told once a day.
        title: The message's first line.
        text: What was found, what was done, and where to read on. No personal data.
        at: When it was raised, ISO 8601, UTC.
    """

    trouble: str
    title: str
    text: str
    at: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))


@dataclass(frozen=True)
class Delivered:
    """What became of the alerts.

    Attributes:
        sent: How many reached the target, those of earlier runs among them.
        repeated: How many were told today already.
        undelivered: How many wait for the next run.
        problem: Why, without the address.
    """

    sent: int = 0
    repeated: int = 0
    undelivered: int = 0
    problem: str = ""


class Outbox:
    """Where alerts go out.

    Args:
        target: "log", or an Apprise address. It may hold a secret and is never shown.
        folder: Where the three files lie.
        within_s: Seconds until a target that does not answer is given up.
    """

    def __init__(self, target: str, folder: Path, *, within_s: float = WITHIN_S) -> None:
        self._target = target
        self._folder = folder
        self._within_s = within_s

    def raise_all(self, alerts: Sequence[Alert], *, ended: Sequence[str] = ()) -> Delivered:
        """Send what was not told today, and what earlier runs could not send.

        Args:
            alerts: The troubles that there are.
            ended: Troubles that are over: if one comes back, it is told at once.
        """
        with self._alone():
            lasting = self._read_open()
            for trouble in ended:
                lasting.pop(trouble, None)
            new = [alert for alert in alerts if lasting.get(alert.trouble) != alert.at[:10]]
            waiting = [*_read(self._folder / UNDELIVERED), *new]
            # Written before anything is sent: a run that is killed meanwhile sends twice rather than never.
            _write(self._folder / UNDELIVERED, waiting)
            _append(self._folder / RAISED, new)
            lasting |= {alert.trouble: alert.at[:10] for alert in new}
            with whole_file(self._folder / OPEN) as file:
                file.write_text(json.dumps(lasting, indent=2, sort_keys=True) + "\n", encoding="utf-8")
            sent, problem = self._send(waiting)
            _write(self._folder / UNDELIVERED, waiting[sent:])
        return Delivered(sent, len(alerts) - len(new), len(waiting) - sent, problem)

    def _send(self, waiting: Sequence[Alert]) -> tuple[int, str]:
        """Send in order; gives how many went out before one did not, and why."""
        for number, alert in enumerate(waiting):
            problem = self._deliver(alert)
            if problem:
                log.error("an alert reached nobody: %s; it is kept in %s", problem, UNDELIVERED)
                return number, problem
        return len(waiting), ""

    def _deliver(self, alert: Alert) -> str:
        if self._target == TO_LOG:
            log.warning("%s: %s", alert.title, alert.text)
            return ""
        answer: list[str] = []
        # A thread that nobody waits for: a name that is not resolved holds a call up for minutes.
        worker = threading.Thread(target=lambda: answer.append(_notify(self._target, alert)), daemon=True)
        worker.start()
        worker.join(self._within_s)
        return answer[0] if answer else f"no answer within {self._within_s:g} s"

    def _read_open(self) -> dict[str, str]:
        try:
            found = json.loads((self._folder / OPEN).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            found = None
        return found if isinstance(found, dict) else {}  # told once more rather than not at all

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        self._folder.mkdir(parents=True, exist_ok=True)
        with (self._folder / LOCK).open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            yield


def _notify(target: str, alert: Alert) -> str:
    """Send by Apprise; gives what went wrong, in words without the address."""
    try:
        import apprise

        # They log addresses, and what servers answer.
        for name in ("apprise", "urllib3", "requests"):
            logging.getLogger(name).setLevel(logging.CRITICAL + 1)
        sender = apprise.Apprise()
        if not sender.add(target):
            return "[alerts] target is no Apprise address"
        if not sender.notify(body=alert.text, title=alert.title):
            return "the target of [alerts] did not take it"
    except Exception as error:
        return f"the target of [alerts] did not take it ({type(error).__name__})"
    return ""


def _read(file: Path) -> list[Alert]:
    found = []
    with contextlib.suppress(FileNotFoundError):
        for line in file.read_text(encoding="utf-8").splitlines():
            with contextlib.suppress(ValueError, TypeError):  # a full disk cuts a line short
                found.append(Alert(**json.loads(line)))
    return found


def _write(file: Path, alerts: Sequence[Alert]) -> None:
    with whole_file(file) as beside:
        beside.write_text("".join(_line(alert) for alert in alerts), encoding="utf-8")


def _append(file: Path, alerts: Sequence[Alert]) -> None:
    with file.open("a", encoding="utf-8") as stream:
        stream.writelines(_line(alert) for alert in alerts)


def _line(alert: Alert) -> str:
    return json.dumps(asdict(alert), ensure_ascii=False) + "\n"
