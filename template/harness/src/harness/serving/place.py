"""What each process of `pilot serve` has to know, for one that imports nothing of what answers.

The supervisor starts workers and watches them. What it would import besides is most of a start, and memory
that it never uses.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.serving.servers import Zygote
from harness.settings import Settings


@dataclass(frozen=True)
class Place:
    """Where `pilot serve` listens, as each of its processes has to know it.

    Attributes:
        settings: The pilot's settings, read once: a process that takes another's place goes by the same.
        host: The address that it listens on.
        url: The same as callers write it.
        debug: Whether whole tracebacks are logged.
        zygote: What its models' libraries are imported in already.
    """

    settings: Settings
    host: str
    url: str
    debug: bool = False
    zygote: Zygote | None = None


class InWorkers:
    """The application as the supervisor has it: a worker that is given this has harness.serving.asgi's own.

    Args:
        place: Where it listens.
    """

    def __init__(self, place: Place) -> None:
        self._place = place

    def __reduce__(self) -> tuple[Any, tuple[Place]]:
        """What a worker calls to have it."""
        return _application, (self._place,)


def _application(place: Place) -> Any:
    from harness.serving.asgi import PerProcess

    return PerProcess(place)
