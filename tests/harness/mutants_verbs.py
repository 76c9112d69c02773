"""Mutants of what features may be written with."""

from __future__ import annotations

from mutants import Mutant

VERBS, TESTS = "pipeline/verbs.py", "test_verbs.py"

MUTANTS = (
    Mutant(
        "any verb may be used", VERBS, "if node.name not in TESTED:", "if False:", TESTS, "any_other_verb"
    ),
    Mutant(
        "what stands inside another verb is not looked at",
        VERBS,
        "            if isinstance(part, nw.Expr):\n                yield from untested(part)",
        "            pass",
        TESTS,
        "any_other_verb",
    ),
)
