"""Changes of the world that the watched tiny pilot decides in."""

from __future__ import annotations

from typing import Any

import polars as pl

from watching import Change, Watched, same


def shifted(frame: pl.DataFrame) -> pl.DataFrame:
    """The probes of one make read six more; nothing else has changed."""
    return frame.with_columns((pl.col("slope") + 6).alias("slope"))


def gone(frame: pl.DataFrame) -> pl.DataFrame:
    """A field of which 2% were missing is missing in 20%."""
    every = pl.int_range(pl.len()) % 5 == 0
    return frame.with_columns(pl.when(every).then(None).otherwise(pl.col("crop")).alias("crop"))


def vanished(frame: pl.DataFrame) -> pl.DataFrame:
    """A category of one in ten is called like another one now."""
    return frame.with_columns(pl.col("soil").replace({"sand": "loam"}))


def renamed(frame: pl.DataFrame) -> pl.DataFrame:
    """Some of a category have a name that nobody has heard of."""
    every = (pl.int_range(pl.len()) % 3 == 0) & (pl.col("soil") == "clay")
    return frame.with_columns(pl.when(every).then(pl.lit("marl")).otherwise(pl.col("soil")).alias("soil"))


def everywhere(
    watched: Watched, change: Change = same, count: int = 600, **options: Any
) -> list[pl.DataFrame]:
    """The same in each of the three windows."""
    return [watched.decide(count, change, window=window, **options) for window in range(3)]


def wrong(frame: pl.DataFrame, share: float) -> pl.DataFrame:
    """Outcomes that are turned round for a share of the records."""
    turned = pl.int_range(pl.len()) < int(share * frame.height)
    return frame.with_columns(
        pl.when(turned).then(~pl.col("withered")).otherwise(pl.col("withered")).alias("withered")
    )
