"""Mutants of the drills: a drill that passes whatever it sees is worse than none."""

from __future__ import annotations

from mutants import Mutant

TESTS = "test_drill_kill.py"
KILL, STOPS, OUTCOME = "drills/kill.py", "drills/stops.py", "drills/outcome.py"
SCRATCH, RECORD, COMMAND = "drills/scratch.py", "readiness/drilled.py", "cli/drill.py"

MUTANTS = (
    Mutant(
        "a model that decides after the stop is overlooked",
        KILL,
        "    late = [each for each in after if each.by_model]\n",
        "    late = [each for each in after if each.by_model and not each.decision_id]\n",
        TESTS,
        "after_the_return",
    ),
    Mutant(
        "a drill in which no model ever decided passes",
        KILL,
        "    if not after or not any(each.by_model for each in answers if each.started < returned):\n",
        "    if not after:\n",
        TESTS,
        "after_the_return",
    ),
    Mutant(
        "decisions that nobody was given are overlooked",
        KILL,
        "len(ids) == len(set(ids)) == on_record",
        "len(ids) == len(set(ids)) <= on_record",
        TESTS,
        "on_record",
    ),
    Mutant(
        "one fallback decision is enough",
        STOPS,
        "len(stopped) == len(answers) > 0",
        "len(stopped) > 0",
        TESTS,
        "the_fallback_did_not_decide",
    ),
    Mutant(
        "a failed check beside one that passed is no failure",
        OUTCOME,
        "        if Verdict.FAILED in found:\n",
        "        if found == {Verdict.FAILED}:\n",
        TESTS,
        "one_failed_check",
    ),
    Mutant(
        "a drill without a check passes",
        OUTCOME,
        "found == {Verdict.PASSED} else",
        "found <= {Verdict.PASSED} else",
        TESTS,
        "one_failed_check",
    ),
    Mutant(
        "a record may claim a pass beside a failed check",
        RECORD,
        "        if self.passed != every or",
        "        if",
        TESTS,
        "claims_a_pass",
    ),
    Mutant(
        "an inconclusive drill ends with exit code 0",
        COMMAND,
        '"inconclusive": 3',
        '"inconclusive": 0',
        TESTS,
        "never_decides",
    ),
    Mutant(
        "the copy delivers to the pilot's consumer",
        SCRATCH,
        'not in ("remote", "downstream")',
        'not in ("remote",)',
        TESTS,
        "leads_elsewhere",
    ),
    Mutant(
        "the scratch copy stays behind",
        SCRATCH,
        "        shutil.rmtree(folder, ignore_errors=True)\n",
        "        pass\n",
        TESTS,
        "swept_away",
    ),
)
