"""Before a model decides, the data covers a cycle of business, and is of those whom it will decide about."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from governed import POPULATION, Governed
from harness.pipeline import layout
from harness.readiness import examine

Do = Callable[[Governed], None]
CYCLE, POPULATED = "data.cycle", "data.population"


@pytest.fixture
def governed(tiny: Any, tmp_path: Path) -> Governed:
    return Governed(tiny, tmp_path / "control")


def found(governed: Governed, gate: Any = "early") -> dict[str, str]:
    """What is missing of the data: ``?`` first where it could not be told."""
    found: dict[str, str] = {}
    for each in examine(governed.settings(), gate).missing:
        if each.check in (CYCLE, POPULATED):
            unknown = "? " if each.status == "unknown" else ""
            found[each.check] = f"{found.get(each.check, '')}{unknown}{each.field}: {each.what}. "
    return found


def test_data_of_a_whole_cycle_and_of_the_population_is_enough(governed: Governed) -> None:
    assert found(governed) == {}


def test_they_are_not_asked_before_a_model_decides(governed: Governed) -> None:
    (governed.root / layout.PROFILE).unlink()
    assert found(governed, "shadow") == {}


def declared(old: str, new: str) -> Do:
    return lambda governed: governed.edit("pilot.toml", old, new)


def no_profile(governed: Governed) -> None:
    (governed.root / layout.PROFILE).unlink()


def damaged_profile(governed: Governed) -> None:
    governed.write(layout.PROFILE.as_posix(), "{}")


def half_a_cycle(governed: Governed) -> None:
    governed.profiled(months=11)


def a_longer_cycle(governed: Governed) -> None:
    governed.edit("pilot.toml", "[data.population]", "[data]\ncycle_months = 24\n\n[data.population]")


def others(governed: Governed) -> None:
    governed.profiled(barley=0.61)


def profiled_with_others(governed: Governed) -> None:
    governed.profiled(declared=0.6)


def a_loose_bound(governed: Governed) -> None:
    governed.edit("pilot.toml", "[data.population]", "[data.population]\nmax_distance = 1.0")
    governed.profiled(barley=0.95)


FAULTS: dict[str, tuple[Do, str, str]] = {
    "no-profile": (
        no_profile,
        CYCLE,
        "? : whether the records cover a cycle of business: evidence/profile.json",
    ),
    "damaged-profile": (damaged_profile, CYCLE, "? : whether the records cover a cycle of business"),
    "half-a-cycle": (half_a_cycle, CYCLE, "evidence/profile.json: records of 11 months in a row, and"),
    "a-longer-cycle": (a_longer_cycle, CYCLE, "records of 14 months in a row, and a cycle of business is 24"),
    "no-profile-of-people": (no_profile, POPULATED, "? : whom the records are about"),
    "undeclared": (declared(POPULATION, ""), POPULATED, "nothing says whom the system will decide about"),
    "no-source": (
        declared("The growers' register of 2026", ""),
        POPULATED,
        "pilot.toml [data.population] source: nobody says where these shares come from",
    ),
    "todo-source": (declared("The growers' register of 2026", "TODO"), POPULATED, "nobody says where"),
    "others": (others, POPULATED, "crop is 0.11 away from the declared population, and 0.1 is allowed"),
    "profiled-with-others": (
        profiled_with_others,
        POPULATED,
        "? : whether the records are of that population",
    ),
    "a-loose-bound": (a_loose_bound, POPULATED, "a distance of 1 is taken for alike, and 0.25 at most is"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_one_fault_keeps_the_model_from_deciding(governed: Governed, fault: str) -> None:
    do, check, told = FAULTS[fault]
    do(governed)
    assert told in found(governed)[check]
