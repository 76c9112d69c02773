"""The model on trial in the stage in force, and what the store says of it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from harness import pilot
from harness.control import Slot, State, read_audit
from harness.errors import unforeseen
from harness.governance.rollout import Guardrail, Rollout
from harness.pilot import Choice
from harness.rollout.guardrails import Judged, judge
from harness.rollout.shadowed import Summary, summary
from harness.rollout.signals import FINE, latest
from harness.rollout.standing import SLACK, Standing, Unclear, standing, unrecorded, written
from harness.rollout.statistics import evidence_of_other_shares
from harness.settings import Settings
from harness.store import Database
from harness.store.arms import Arms, ArmStore, Spread, Stretch

Since = Literal["entered", "judged"]


@dataclass(frozen=True)
class Trial:
    """What is looked at.

    Attributes:
        settings: This pilot's settings.
        rollout: governance/rollout.yaml.
        standing: The stage in force, and since when.
        digest: The model on trial; in the last stage, the one in use.
        percent: Its share of entities.
        database: The store.
        now: The moment of the question, UTC.
        beside: What it is called where it decides beside the model that is looked at; empty for that one.
    """

    settings: Settings
    rollout: Rollout
    standing: Standing
    digest: str
    percent: int
    database: Database
    now: datetime
    beside: str = ""

    @property
    def alpha(self) -> float:
        """What each guardrail that is a test may use up of the whole (Bonferroni)."""
        return self.rollout.alpha / max(len([each for each in self.rollout.guardrails if not each.signal]), 1)

    def close(self) -> None:
        """Close the store."""
        self.database.close()

    def spread(self) -> Spread:
        """How the model's decisions lie in time, since a person last judged."""
        return ArmStore(self.database).spread(self._stretch("judged"))

    def shadowed(self, since: Since = "entered") -> Summary:
        """The model's time beside the decisions.

        Raises:
            Unclear: This version keeps no pairs.
        """
        begin = self.standing.entered_at if since == "entered" else self.standing.judged_at
        return summary(self.database, self.digest, written(begin))

    def guarded(self, since: Since) -> list[Judged]:
        """What each guardrail says.

        Args:
            since: From when on decisions count: since the stage was entered, or since a person last judged.
        """
        return [self.ask(each, since) for each in self.asked]

    @property
    def asked(self) -> list[Guardrail]:
        """The guardrails that say something of this model."""
        # In the last stage everybody has the model, and there is nobody left to compare with. And a champion
        # is what a model on trial is held against: one that does better is no fault of it.
        alone = self.standing.stage == "full" or bool(self.beside)
        return [each for each in self.rollout.guardrails if not (alone and each.margin is not None)]

    def ask(self, guardrail: Guardrail, since: Since) -> Judged:
        """What one guardrail says; `since` as for `guarded`."""
        return self._signal(guardrail, since) if guardrail.signal else self._figure(guardrail, since)

    def other_shares(self) -> tuple[float, tuple[int, int]]:
        """The logarithm of an e-value against the stated shares, and how many entities each arm has.

        Raises:
            Unclear: The stage has one arm only.
        """
        if not 0 < self.percent < 100:
            raise Unclear(
                "whether entities fall into the arms as they should: there is one arm only", "Go on."
            )
        arms = ArmStore(self.database).fallbacks(self._stretch("entered"))
        counts = arms.treated.entities, arms.control.entities
        share = self.percent / 100
        return evidence_of_other_shares(counts, (share, 1 - share)), counts

    def quiet(self, names: tuple[str, ...]) -> tuple[list[str], list[str]]:
        """Of these signals, which are raised, and of which it is not known, each in words.

        Raises:
            Unclear: The monitor's latest report says nothing of this model in this stage.
        """
        found = latest(self.settings.root, self.digest, self.now, self.standing.entered_at)
        raised, unknown = [], []
        for name in names:
            verdict, why = found.verdicts.get(name, "not in the report"), found.why.get(name, "")
            told = f"{name}: {verdict.replace('_', ' ')}{f' ({why})' if why else ''}"
            if verdict in ("breached", "failed"):
                raised.append(told)
            elif verdict not in FINE:
                unknown.append(told)
        return raised, unknown

    def _stretch(self, since: Since) -> Stretch:
        revision = self.standing.revision if since == "entered" else self.standing.judged
        return Stretch(self.standing.stage, self.digest, revision, written(self.standing.entered_at - SLACK))

    def _figure(self, guardrail: Guardrail, since: Since) -> Judged:
        return judge(guardrail, self._counted(guardrail, self._stretch(since)), self.alpha)

    def _counted(self, guardrail: Guardrail, stretch: Stretch) -> Arms:
        store = ArmStore(self.database)
        if guardrail.measure == "error_rate":
            return store.failures(stretch)
        if guardrail.measure == "fallback_rate":
            return store.fallbacks(stretch)
        if guardrail.measure == "late_rate":
            assert guardrail.over_ms is not None  # the document's own check
            return store.late(stretch, guardrail.over_ms)
        decided = pilot.load_contract(self.settings.pilot.package).decision
        if isinstance(decided, Choice):
            return store.wrong(stretch, decided.above, decided.below)
        return store.off(stretch, decided.high - decided.low)

    def _signal(self, guardrail: Guardrail, since: Since) -> Judged:
        after = self.standing.entered_at if since == "entered" else self.standing.judged_at
        try:
            found = latest(self.settings.root, self.digest, self.now, after)
        except Unclear as error:
            return Judged(guardrail.name, "signal", "inconclusive", False, error.what)
        verdict, why = found.verdicts.get(guardrail.signal, ""), found.why.get(guardrail.signal, "")
        if verdict == "breached":
            return Judged(guardrail.name, "signal", "breached", False, f"the monitor: {why}")
        if verdict in FINE:
            return Judged(guardrail.name, "signal", "quiet", True, f"the monitor: {why}")
        told = (
            f"the monitor: {verdict.replace('_', ' ')} ({why})"
            if verdict
            else "the monitor does not report it"
        )
        return Judged(guardrail.name, "signal", "inconclusive", False, told)


def on_trial(settings: Settings, rollout: Rollout, state: State | None, now: datetime) -> Trial:
    """The model on trial in the stage in force, for a gate. The caller closes it.

    Raises:
        Unclear: The pilot is in the sandbox, no model is on trial, or the audit does not say since when.
        StoreUnavailable: The store cannot be opened.
    """
    state, slot = _named(state)
    where = _recorded(settings, state, now)
    return Trial(settings, rollout, where, slot.digest, slot.pct, _store(settings), now)


def on_guard(
    settings: Settings, rollout: Rollout, state: State | None, now: datetime
) -> tuple[list[Trial], tuple[str, ...]]:
    """The models that the controller guards, and what it cannot see of them. The caller closes them.

    The one on trial comes first; a champion that decides beside it is guarded too, and alone where nothing is
    left to be taken back of the other.

    An audit that cannot be read holds no guard up. Without it everything counts that the stage ever saw of
    the model, what a person has judged as well: a model that is taken back once too often harms nobody.

    Raises:
        Unclear: The pilot is in the sandbox, or the state names no model.
        StoreUnavailable: The store cannot be opened.
    """
    state = _outside(state)
    slots = _deciding(state)
    if not slots:
        raise _nobody(state)
    blind: tuple[str, ...] = ()
    try:
        where = _recorded(settings, state, now)
    except Exception as error:  # whatever is wrong with the record, the guard stands
        told = str(error if isinstance(error, Unclear) else unforeseen(error, settings.root))
        where, blind = unrecorded(state), (f"{told} {WITHOUT}",)
    store = _store(settings)
    found = [
        Trial(settings, rollout, where, slot.digest, slot.pct, store, now, beside) for beside, slot in slots
    ]
    return found, blind


WITHOUT = "Until then everything counts that this stage ever saw of the model."


def _named(state: State | None) -> tuple[State, Slot]:
    state = _outside(state)
    slot = state.champion if state.stage == "full" else state.challenger
    if slot is None:
        raise _nobody(state)
    return state, slot


def _outside(state: State | None) -> State:
    if state is None or state.stage == "sandbox":
        raise Unclear(
            "what a stage has shown: the pilot is in the sandbox, whose decisions never count", "Promote it."
        )
    return state


def _nobody(state: State) -> Unclear:
    return Unclear(f"what the stage '{state.stage}' has shown: no model is on trial in it", "Promote one.")


def _deciding(state: State) -> list[tuple[str, Slot]]:
    """Every model that the state lets decide or has on trial, and what it is called beside the first."""
    models: list[tuple[str, Slot | None]] = [("", state.challenger), ("champion", state.champion)]
    if state.stage == "full":
        models = [("", state.champion), ("challenger", state.challenger)]
    elif state.stage == "shadow" and state.held:
        models = models[1:]  # it was taken back already, and decides nothing
    return [(beside, slot) for beside, slot in models if slot is not None]


def _recorded(settings: Settings, state: State, now: datetime) -> Standing:
    try:
        entries = read_audit(settings.path(settings.control.folder))
    except (ValueError, OSError) as error:
        raise Unclear(
            f"since when the stage '{state.stage}' is in force: {error}", "Compare it with a backup."
        ) from error
    return standing(state, entries, now)


def _store(settings: Settings) -> Database:
    return Database(settings.sqlite_url(settings.store.url))
