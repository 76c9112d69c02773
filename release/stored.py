"""Answers that a pilot may have stored: from one example each, every length and every kind of character."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from release.errors import ReleaseError
from release.snapshot import Snapshot

EXAMPLES, PLANS = "questions/stored.yaml", "questions/plans.yaml"
LONGEST = 400
CHARACTERS = (
    *map(chr, range(0x20, 0x250)),
    *map(chr, range(0x2000, 0x2100)),
    *"\u0416\u05d0\u0627\u0915\u0e01\u3042\u4e2d\uac00\ufdfa\uff21\U0001f642",
)


class Plan(BaseModel):
    """What becomes of the answers to a question that is no longer asked.

    Attributes:
        question: Its name.
        version: The release that stops asking.
        successor: The question that is asked instead; its default carries a stored answer over.
        answers: Stored answers, and what the successor makes of each; every choice, if there were choices.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    question: str
    version: str
    successor: str
    answers: dict[str, str]


def plans(repository: Path) -> dict[str, Plan]:
    """The plans by question.

    Raises:
        ReleaseError: The file cannot be read.
    """
    try:
        read = yaml.safe_load((repository / PLANS).read_text(encoding="utf-8")) or []
        found = [Plan.model_validate(each) for each in read]
    except (yaml.YAMLError, ValidationError, TypeError) as error:
        why = error.errors()[0]["msg"] if isinstance(error, ValidationError) else "it is no list of plans"
        raise ReleaseError(f"{PLANS}: {why}. Write each plan as the comment at its head says.") from error
    return {each.question: each for each in found}


def examples(repository: Path) -> dict[str, list[str]]:
    """The answers by question that the repository keeps as examples."""
    read: dict[str, list[str]] = yaml.safe_load((repository / EXAMPLES).read_text(encoding="utf-8"))
    return read


def answers(release: Snapshot, now: Snapshot, question: str, kept: dict[str, list[str]]) -> Iterator[Any]:
    """What a pilot of a release may have stored for a question, and that the release accepted.

    Args:
        release: The release that asked.
        now: The version that has to accept them; words in its lists are tried too.
        question: The question.
        kept: The examples.
    """
    if choices := release.choices(question):
        yield from choices
        return
    tried = [variant for example in kept.get(question, []) for variant in (example, *_variants(example))]
    lists = [text.decode() for name, text in now.support.items() if name.endswith(".txt")]
    words = [word for text in lists for word in text.split()]
    for answer in dict.fromkeys([*tried, *words]):
        if not release.refusal(question, answer):
            yield answer


def _variants(example: str) -> Iterator[str]:
    """The example with something in its middle."""
    middle = len(example) // 2
    for more in (*("a" * length for length in range(1, LONGEST)), *CHARACTERS):
        yield example[:middle] + more + example[middle:]
