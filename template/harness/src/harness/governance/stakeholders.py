"""governance/stakeholders.yaml: who gains, who loses, and how people come to use it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import date, timedelta
from typing import TYPE_CHECKING

from pydantic import Field

from harness.governance.document import Document
from harness.governance.rules import Gate, Problem, Rule
from harness.governance.values import OrNotApplicable, Part, Pending, Text, Unfilled, is_placeholder

if TYPE_CHECKING:
    from harness.governance.documents import Documents

REVIEW_EVERY = timedelta(days=180)


class Group(Part):
    """People whom the pilot touches.

    Attributes:
        name: Who they are.
        gains: What is better for them.
        loses: What they lose: time, standing, work; empty where they lose nothing.
        incentive: What makes it worth their while all the same.
    """

    name: Text
    gains: Text
    loses: str = ""
    incentive: Text


class Adoption(Part):
    """How much use is wanted.

    Attributes:
        target_share: The share of decisions, 0 to 1, that people act on.
        by: The day on which it is to be reached.
    """

    target_share: Pending[float]
    by: Pending[date]


class Training(Part):
    """Who learns what, until when."""

    who: Text
    what: Text
    by: Pending[date]


class Feedback(Part):
    """Where people say what is wrong, and how soon they hear back."""

    channel: Text
    reply_within_days: Pending[int]


class Review(Part):
    """The last review with the business.

    Attributes:
        held_on: The day.
        present: The roles that took part.
    """

    held_on: Pending[date]
    present: tuple[Text, ...] = Field(default=())


class Stakeholders(Document):
    """The whole file; ``nobody_loses`` is the reason where no group does."""

    groups: tuple[Group, ...]
    nobody_loses: str = ""
    adoption: Adoption
    training: OrNotApplicable[Training]
    feedback: Feedback
    review: Review


def _groups(documents: Documents) -> Iterator[Problem]:
    stakeholders = documents.stakeholders
    # A group that is not named yet is told as an open field, and may still become another.
    names = {
        f"{number}" if is_placeholder(group.name) else group.name.casefold()
        for number, group in enumerate(stakeholders.groups)
    }
    if len(names) < 3:
        yield Problem("groups", f"it names {len(names)} different groups, and three are wanted")


def _losers(documents: Documents) -> Iterator[Problem]:
    stakeholders = documents.stakeholders
    lost = [stakeholders.nobody_loses, *(group.loses for group in stakeholders.groups)]
    if not any(said.strip() for said in lost):
        yield Problem("groups", "no group loses anything, which is rare")


def _target(documents: Documents) -> Iterator[Problem]:
    share = documents.stakeholders.adoption.target_share
    if not isinstance(share, Unfilled) and not 0 < share <= 1:
        yield Problem("adoption.target_share", f"{share:g} is no share above 0 and up to 1")


def _review(documents: Documents) -> Iterator[Problem]:
    review, today = documents.stakeholders.review, documents.facts.today
    if isinstance(review.held_on, Unfilled):
        return
    if not today - REVIEW_EVERY <= review.held_on <= today:
        yield Problem("review.held_on", f"{review.held_on} is not within the last {REVIEW_EVERY.days} days")
    if "business" not in review.present:
        yield Problem("review.present", "the business owner was not there")


RULES = (
    Rule("stakeholders.groups", "shadow", "Name users, those decided about, those who must change.", _groups),
    Rule("stakeholders.losers", "shadow", "Write what a group loses, or why none does.", _losers),
    Rule("stakeholders.target", "pilot", "Write a share, as 0.6.", _target),
    Rule("stakeholders.review", "early", "Hold a review with the role `business`, and note it.", _review),
)
LATER: Mapping[str, Gate] = {"adoption": "early", "training": "early", "feedback": "early", "review": "early"}
