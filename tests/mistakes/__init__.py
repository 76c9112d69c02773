"""Mistakes that people make, each planted in a generated pilot, and what the pilot says to each."""

from __future__ import annotations

from mistakes import access, batches, code, configuration, options, remote, serving, sources, watching
from mistakes.planted import Mistake

ALL: tuple[Mistake, ...] = (
    *configuration.MISTAKES,
    *sources.MISTAKES,
    *code.MISTAKES,
    *options.MISTAKES,
    *access.MISTAKES,
    *serving.MISTAKES,
    *batches.MISTAKES,
    *watching.MISTAKES,
    *remote.MISTAKES,
)
