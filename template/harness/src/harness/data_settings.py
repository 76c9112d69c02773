"""What a team may say about its data in pilot.toml, below [data]: whom it is about, and what is too much.

It stands below [data] and not in tables of its own because DVC refuses a parameter that the file does not
have, and every pilot has [data].
"""

from __future__ import annotations

from pydantic import Field, ValidationInfo, field_validator

from harness.sections import Section

# Spark would fetch what these name, from wherever they say.
NOT_TO_FETCH = ("spark.jars.packages", "spark.jars.repositories", "spark.jars.ivySettings")
# What harness.data.spark sets so that Spark says what DuckDB says.
THE_STANDARDS = {
    "spark.sql.session.timeZone": "UTC",
    # A cast or a division that fails says so, as on DuckDB; without it there would be a null.
    "spark.sql.ansi.enabled": "true",
    "spark.sql.caseSensitive": "true",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.parquet.inferTimestampNTZ.enabled": "true",
    # Days before 1582 are what they are, and not what they were called then.
    "spark.sql.parquet.datetimeRebaseModeInRead": "CORRECTED",
    "spark.sql.parquet.datetimeRebaseModeInWrite": "CORRECTED",
    "spark.sql.parquet.int96RebaseModeInRead": "CORRECTED",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
}


class Band(Section):
    """A number's bands in the population.

    Attributes:
        edges: The upper ends, inclusive, of all bands but the last, ascending.
        shares: The share of each band; one more than there are edges. They add up to 1.
    """

    edges: tuple[float, ...]
    shares: tuple[float, ...]

    @field_validator("shares")
    @classmethod
    def _whole(cls, shares: tuple[float, ...], info: ValidationInfo) -> tuple[float, ...]:
        edges = info.data.get("edges", ())
        if list(edges) != sorted(set(edges)) or len(shares) != len(edges) + 1:
            raise ValueError("edges ascend, and there is one share more than there are edges")
        return _adds_up(shares)


class Population(Section):
    """Whom the system will decide about, as far as the team knows; the profile compares the records with it.

    Attributes:
        source: Who says so, and on what day.
        max_distance: The total variation distance, 0 to 1, from which on records are not representative.
        shares: For fields with categories: the share of each category.
        bands: For numbers: the share of each band.
    """

    source: str = ""
    max_distance: float = Field(default=0.1, gt=0, le=1)
    shares: dict[str, dict[str, float]] = Field(default_factory=dict)
    bands: dict[str, Band] = Field(default_factory=dict)

    @field_validator("shares")
    @classmethod
    def _whole(cls, shares: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
        for name, each in shares.items():
            try:
                _adds_up(tuple(each.values()))
            except ValueError as error:
                raise ValueError(f"{name}: {error}") from None
        return shares

    def parts(self, name: str) -> list[float]:
        """A field's declared shares, as parts of one; nothing is declared of other categories."""
        shares = self.shares.get(name)
        values = [*shares.values(), 0.0] if shares is not None else list(self.bands[name].shares)
        return [round(value / sum(values), 9) for value in values]


def _adds_up(shares: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 <= share <= 1 for share in shares) or not 0.98 <= sum(shares) <= 1.02:
        raise ValueError(f"shares lie between 0 and 1 and add up to 1, and these add up to {sum(shares):g}")
    return shares


class Probes(Section):
    """From where on the probes for leakage and bias warn, and from where on they stop the pipeline.

    Attributes:
        warn_auc: A single feature that ranks held-out records so well is worth a look; 0.5 is chance.
        stop_auc: One that ranks them so well knows the outcome.
        warn_rank_correlation: The same where a number is decided: Spearman's, without its sign.
        stop_rank_correlation: The same.
        future_auc: A date after the decision that tells the outcome so well stops the pipeline.
        min_group_share: A smaller share of the records is too little to judge a group by.
        max_base_rate_gap: How much more or less often than elsewhere the outcome may be true in a group;
            where a number is decided, in standard deviations.
        accepted: Findings that somebody looked at and stands for: the finding's id, and why it is no leak.
    """

    warn_auc: float = Field(default=0.93, gt=0.5, le=1)
    stop_auc: float = Field(default=0.985, gt=0.5, le=1)
    warn_rank_correlation: float = Field(default=0.95, gt=0, le=1)
    stop_rank_correlation: float = Field(default=0.9995, gt=0, le=1)
    future_auc: float = Field(default=0.75, gt=0.5, le=1)
    min_group_share: float = Field(default=0.01, ge=0, lt=1)
    max_base_rate_gap: float = Field(default=0.25, gt=0)
    accepted: dict[str, str] = Field(default_factory=dict)

    @field_validator("accepted")
    @classmethod
    def _why(cls, accepted: dict[str, str]) -> dict[str, str]:
        for name, why in accepted.items():
            if len(why.split()) < 3 or "TODO" in why:
                raise ValueError(f"{name}: say who looked at it and why it is no leak, in some words")
        return accepted


class Gap(Section):
    """From where on `pilot gap` calls production worse than the pilot was.

    Attributes:
        missing_share: By how much more of a column is missing, 0 to 1.
        new_format_share: The share of a column that is written as the pilot never saw.
        new_category_share: The share of a field in categories that the pilot never saw.
        beyond_share: The share of a column beyond the pilot's smallest and largest value.
        duplicate_share: By how much more rows are duplicates.
        volume_factor: How many times as many rows.
        label_rate: By how much the outcome is more or less frequent.
        distance: The total variation distance between categories of the two.
    """

    missing_share: float = Field(default=0.05, gt=0, le=1)
    new_format_share: float = Field(default=0.01, gt=0, le=1)
    new_category_share: float = Field(default=0.001, gt=0, le=1)
    beyond_share: float = Field(default=0.01, gt=0, le=1)
    duplicate_share: float = Field(default=0.01, gt=0, le=1)
    volume_factor: float = Field(default=20, gt=1)
    label_rate: float = Field(default=0.05, gt=0, le=1)
    distance: float = Field(default=0.1, gt=0, le=1)


class Spark(Section):
    """Where Spark runs, for ``engine = "spark"``.

    Attributes:
        master: Spark's master: ``local[*]`` for this machine, ``yarn``, ``k8s://https://host``,
            ``spark://host:7077``. Empty where `spark-submit` or spark-defaults.conf says it.
        app_name: What the application is called on the cluster; the pilot's name when empty.
        config: Further settings of Spark's, by their own names.
    """

    master: str = "local[*]"
    app_name: str = ""
    config: dict[str, str | int | float | bool] = Field(default_factory=dict)

    @field_validator("master")
    @classmethod
    def _a_session_of_its_own(cls, master: str) -> str:
        if master.startswith("sc://"):
            raise ValueError(
                "Spark Connect has other types and no driver here; run `pilot run` on the cluster's driver "
                'with master = ""'
            )
        return master

    @field_validator("config")
    @classmethod
    def _allowed(cls, config: dict[str, str | int | float | bool]) -> dict[str, str | int | float | bool]:
        for name in config:
            if not name.startswith("spark."):
                raise ValueError(f"'{name}' is no setting of Spark's: their names begin with spark.")
            if name in NOT_TO_FETCH:
                raise ValueError(
                    f"'{name}' fetches code when a session starts: bring the files with spark.jars"
                )
            if name in THE_STANDARDS:
                raise ValueError(f"'{name}' is the standard's: results hang on it")
        return config
