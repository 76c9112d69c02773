"""What the profile has to show before a model decides: a whole cycle of business, and whom it will meet."""

from __future__ import annotations

from collections.abc import Iterator

from harness.data.profiled import Profile, load_profile
from harness.errors import PilotError
from harness.governance.rules import Problem
from harness.governance.values import is_placeholder
from harness.pipeline import layout
from harness.readiness.case import Case, Requirement, Unknown

LOOSEST = 0.25
"""A total variation distance above which two populations are not alike, whatever pilot.toml allows."""

WHERE = layout.PROFILE.as_posix()
AGAIN = "`pilot run`, and commit what it wrote."


def _profile(case: Case, question: str) -> Profile:
    try:
        return load_profile(case.root / layout.PROFILE)
    except PilotError as error:
        raise Unknown(f"{question}: {WHERE}: {error.what}", AGAIN) from error


def _cycle(case: Case) -> Iterator[Problem]:
    covered = _profile(case, "whether the records cover a cycle of business").coverage
    wanted = case.settings.data.cycle_months
    if covered.longest_run < wanted:
        told = f"records of {covered.longest_run} months in a row, and a cycle of business is {wanted}"
        yield Problem(WHERE, told)


def _population(case: Case) -> Iterator[Problem]:
    profile, declared = _profile(case, "whom the records are about"), case.settings.data.population
    names = {*declared.shares, *declared.bands}
    where = "pilot.toml [data.population]"
    if not names:
        yield Problem(where, "nothing says whom the system will decide about")
        return
    if is_placeholder(declared.source) or not declared.source.strip():
        yield Problem(f"{where} source", "nobody says where these shares come from")
    if declared.max_distance > LOOSEST:
        told = f"a distance of {declared.max_distance:g} is taken for alike, and {LOOSEST:g} at most is"
        yield Problem(f"{where} max_distance", told)
    known = {name: tuple(declared.parts(name)) for name in names}
    if known != {name: found.declared for name, found in profile.population.items()}:
        raise Unknown("whether the records are of that population: they were profiled with another", AGAIN)
    bound = min(declared.max_distance, LOOSEST)
    for name, found in sorted(profile.population.items()):
        if found.distance > bound:
            told = (
                f"{name} is {found.distance:.2f} away from the declared population, and {bound:g} is allowed"
            )
            yield Problem(WHERE, told)


REQUIREMENTS = (
    Requirement("data.cycle", "early", "data", "Ingest more history, or wait until it has come.", _cycle),
    Requirement(
        "data.population",
        "early",
        "data",
        "Declare it with who says so; ingest those who are missing, or decide about fewer.",
        _population,
    ),
)
