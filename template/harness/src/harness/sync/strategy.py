"""From a flag as Unleash sends it to a share of entities. What is not understood is refused, never guessed.

Each key that could restrict a flag further has to be empty or known: a later Unleash may add one, and reading
past it would let a model decide for more than somebody meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from harness.sync.answers import Refused

# What describes a flag, and restricts nobody.
DESCRIBING = {
    "name",
    "type",
    "enabled",
    "project",
    "stale",
    "strategies",
    "description",
    "impressionData",
    "createdAt",
    "lastSeenAt",
}
STRATEGY = {"id", "name", "title", "parameters", "sortOrder", "featureName"}
# What an entity's own number decides. With a session's, one entity would be on both sides.
STICKY = ("default", "userId", "random")


def share(feature: Mapping[str, Any], *, group: str, where: str) -> int:
    """The share of entities, 0 to 100, that an enabled flag is on for.

    Args:
        feature: The flag, as ``/api/client/features`` lists it.
        group: The group that the share has to be drawn from.
        where: Where the flag stands, for messages.

    Raises:
        Refused: It says something else than one gradual rollout of that group.
    """

    def refused(what: str, mend: str = "Give the flag one gradual rollout and nothing beside it.") -> Refused:
        return Refused(what, where=where, mend=mend)

    further = _further(feature, DESCRIBING)
    if further:
        raise refused(f"the flag has {further}, which is not understood here")
    strategies = feature.get("strategies")
    if not isinstance(strategies, list) or not all(isinstance(each, dict) for each in strategies):
        raise refused("the flag's strategies are no list of tables")
    if len(strategies) != 1:
        raise refused(f"the flag has {len(strategies)} strategies, and one is understood here")
    strategy = strategies[0]
    further = _further(strategy, STRATEGY)
    if further:
        raise refused(f"the flag's strategy has {further}, which is not understood here")
    parameters = strategy.get("parameters") or {}
    if not isinstance(parameters, dict):
        raise refused("the strategy's parameters are no table")
    kind = strategy.get("name")
    if kind == "flexibleRollout":
        sticky = parameters.get("stickiness", "default")
        if sticky not in STICKY:
            raise refused(f"the rollout sticks to '{sticky}', not to the entity", "Set stickiness to userId.")
        if sticky != "random":
            _same_group(parameters, group, refused)
        return _percent(parameters.get("rollout"), refused)
    if kind == "gradualRolloutUserId":
        _same_group(parameters, group, refused)
        return _percent(parameters.get("percentage"), refused)
    if kind == "gradualRolloutRandom":
        return _percent(parameters.get("percentage"), refused)
    if kind == "default" and not _further(parameters, set()):
        return 100
    raise refused(f"the strategy '{kind}' is not understood here", "Use a gradual rollout (flexibleRollout).")


def _further(found: Mapping[str, Any], known: set[str]) -> str:
    """The keys beside the known ones that say something."""
    said = sorted(
        name for name, value in found.items() if name not in known and value not in (None, "", False)
    )
    return ", ".join(name for name in said if found[name] not in ([], {}))


def _same_group(parameters: Mapping[str, Any], group: str, refused: Any) -> None:
    found = parameters.get("groupId")
    if found != group:
        raise refused(
            f"the rollout draws its buckets from the group '{found}', and this pilot from '{group}': "
            "it would reach other entities",
            f"Set the strategy's groupId to {group}.",
        )


def _percent(said: Any, refused: Any) -> int:
    text = str(said)
    if isinstance(said, bool) or not re.fullmatch(r"\d{1,3}", text, re.ASCII) or int(text) > 100:
        raise refused(f"the rollout is {said!r}, no whole number from 0 to 100", "Set it to one.")
    return int(text)
