"""What holds between this version and every release: stored answers and paths keep their meaning.

Each rule yields lines that say what is wrong, where, and the mend.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

from pilot_template.update.notes import version_of
from pilot_template.update.ownership import RETIRED, SEED
from release import stored
from release.snapshot import Snapshot
from release.stored import EXAMPLES, PLANS, Plan

HARNESS = "harness/"


def findings(
    releases: Sequence[Snapshot], now: Snapshot, plans: dict[str, Plan], kept: dict[str, list[str]]
) -> list[str]:
    """Everything that is wrong with this version, each line once.

    Args:
        releases: Every release, oldest first.
        now: This version.
        plans: What becomes of answers to questions that are no longer asked.
        kept: Examples of stored answers.
    """
    found = chain(
        *(_questions(release, now, plans, kept) for release in releases),
        _plans(releases, now, plans),
        *(_lists(release, now) for release in releases),
        *(_owners(release, now) for release in releases),
        *(_dropped(release, now) for release in releases),
        _reused(releases, now),
        _retired_for_nothing(releases, now),
    )
    return list(dict.fromkeys(found))


def _questions(
    release: Snapshot, now: Snapshot, plans: dict[str, Plan], kept: dict[str, list[str]]
) -> Iterator[str]:
    for name, question in now.questions.items():
        before = release.questions.get(name)
        if "default" not in question and (before is None or "default" in before):
            yield (
                f"{name}: {release.name} had no need of an answer, and there is no default. Give it "
                "one, or an update stops."
            )
    for name, before in release.questions.items():
        if name not in now.questions:
            if name not in plans:
                yield (
                    f"{name}: {release.name} asked it, and it is gone. Write in {PLANS} which "
                    "question takes its answers over."
                )
            else:
                yield from _carried_over(release, now, plans[name], plans, kept)
        elif before.get("type") != now.questions[name].get("type"):
            was, becomes = before.get("type"), now.questions[name].get("type")
            yield (
                f"{name}: its type was {was} in {release.name} and is {becomes}. Leave it, or ask "
                "under another name."
            )
        else:
            yield from _still_accepted(release, now, name, kept)


def _still_accepted(release: Snapshot, now: Snapshot, name: str, kept: dict[str, list[str]]) -> Iterator[str]:
    """The new choices and validator accept what the old ones did."""
    mend = f"Accept it, or ask under another name with a plan in {PLANS}."
    if (gone := [each for each in release.choices(name) if each not in now.choices(name)]) and now.choices(
        name
    ):
        yield f"{name}: {release.name} offered {gone[0]}, which is no choice any more. {mend}"
        return
    before, after = (each.questions[name].get("validator") for each in (release, now))
    if (before, release.support, release.choices(name)) == (after, now.support, now.choices(name)):
        return
    if not release.choices(name) and not kept.get(name):
        yield (
            f"{name}: its validator changed since {release.name}, and there is no example of an "
            f"answer. Add some to {EXAMPLES}."
        )
    for answer in stored.answers(release, now, name, kept):
        if said := now.refusal(name, answer):
            yield f"{name}: {release.name} accepted {_short(answer)}, which is refused now ({said}) {mend}"
            return


def _carried_over(
    release: Snapshot, now: Snapshot, plan: Plan, plans: dict[str, Plan], kept: dict[str, list[str]]
) -> Iterator[str]:
    """What a pilot of the release has stored becomes one that is accepted."""
    name, successor = plan.question, plan.successor
    while successor not in now.questions and successor in plans:
        successor = plans[successor].successor
    if successor not in now.questions:
        return  # said of the plan itself
    if missing := [each for each in release.choices(name) if str(each) not in plan.answers]:
        yield (
            f"{PLANS}: {name}: {release.name} offered {missing[0]}, of which the plan says nothing. "
            "Add it to answers."
        )
    for answer in stored.answers(release, now, name, kept):
        becomes = now.default(successor, {name: answer})
        if said := now.refusal(successor, becomes):
            yield (
                f"{PLANS}: {name}: a stored {_short(answer)} becomes {_short(becomes)}, which "
                f"{successor} refuses ({said}) Mend the default."
            )
            return


def _plans(releases: Sequence[Snapshot], now: Snapshot, plans: dict[str, Plan]) -> Iterator[str]:
    """Each plan is one: of a question that was asked and is not, and its default does what it says."""
    for plan in plans.values():
        asked = [release for release in releases if plan.question in release.questions]
        where = f"{PLANS}: {plan.question}"
        if plan.question in now.questions:
            yield (
                f"{where}: it is still asked, so Copier would refuse the stored answer. Ask under "
                "another name."
            )
        elif not asked:
            yield f"{where}: no release asked it. Correct the name, or take the plan out."
        elif version_of(plan.version) <= version_of(asked[-1].name):
            yield (
                f"{where}: {asked[-1].name} still asked it, so {plan.version} did not stop. Correct "
                "the version."
            )
        elif plan.successor not in now.questions and plan.successor not in plans:
            yield f"{where}: {plan.successor} is not asked. Name the question that takes the answers over."
        for answer, expected in plan.answers.items() if plan.successor in now.questions else ():
            becomes = str(now.default(plan.successor, {plan.question: answer}))
            if becomes != expected:
                yield (
                    f"{where}: a stored {_short(answer)} becomes {_short(becomes)} and not "
                    f"{_short(expected)}. Mend the default of {plan.successor}, or the plan."
                )
            if asked and (said := asked[-1].refusal(plan.question, answer)):
                yield (
                    f"{where}: {asked[-1].name} never accepted {_short(answer)} ({said}) Take it out "
                    "of the plan."
                )


def _lists(release: Snapshot, now: Snapshot) -> Iterator[str]:
    """The lists of what an update leaves alone only grow."""
    for file, before, after in (
        (SEED, release.ownership.seed, now.ownership.seed),
        (RETIRED, release.ownership.retired, now.ownership.retired),
    ):
        for line in before.lines:
            if line not in after.lines:
                yield (
                    f"{file}: {line} stood there in {release.name} and is gone. Put it back: teams "
                    "have files there."
                )


def _owners(release: Snapshot, now: Snapshot) -> Iterator[str]:
    """What an update left alone is not replaced by a later one."""
    for path in sorted(now.standards):
        if release.ownership.is_teams(path):
            yield (
                f"{path}: {release.name} left it to the teams, and an update would replace it now. "
                "Give the standard's another name."
            )


def _dropped(release: Snapshot, now: Snapshot) -> Iterator[str]:
    """What the standard no longer writes is retired: Copier deletes the rest, with the team's edits."""
    for path in sorted(release.standards - now.paths):
        if not path.startswith(HARNESS) and not now.ownership.is_teams(path):
            yield (
                f"{path}: {release.name} wrote it, and nothing does now. Add /{path} to {RETIRED}, or "
                "teams lose their edits."
            )


def _reused(releases: Sequence[Snapshot], now: Snapshot) -> Iterator[str]:
    """A path that was dropped is not taken up again: older pilots may have something else there."""
    seen: set[str] = set()
    dropped: dict[str, str] = {}
    for release in releases:
        dropped |= dict.fromkeys(seen - release.paths, release.name)
        seen |= release.paths
    for path in sorted(now.paths & dropped.keys()):
        yield (
            f"{path}: {dropped[path]} had dropped it, and it is taken up again. Give what is new "
            "another name."
        )


def _retired_for_nothing(releases: Sequence[Snapshot], now: Snapshot) -> Iterator[str]:
    """Each retired line is of a path that a release rendered and this version does not."""
    once = set().union(*(release.paths for release in releases))
    for line in now.ownership.retired.lines:
        alone = type(now.ownership.retired)((line,))
        if not alone.matched(once):
            yield f"{RETIRED}: {line} was in no release. Correct it, or take it out before it is released."
        for path in sorted(alone.matched(set(now.paths))):
            yield (
                f"{path}: it is rendered, and {RETIRED} says that nothing writes it. Give the new "
                "file another name."
            )


def _short(answer: object) -> str:
    text = repr(answer)
    return text if len(text) <= 60 else f"{text[:40]}... ({len(str(answer))} characters)"
