"""Mistakes that people make, each planted in a generated pilot, and what the pilot says to each."""

from __future__ import annotations

from mistakes import code, configuration, options, sources
from mistakes.planted import Mistake

ALL: tuple[Mistake, ...] = (
    *configuration.MISTAKES,
    *sources.MISTAKES,
    *code.MISTAKES,
    *options.MISTAKES,
)
