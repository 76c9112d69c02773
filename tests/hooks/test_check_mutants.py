"""The tests notice when a promise of the conventions is inverted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("check_mutants", Path(__file__).with_name("mutants.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutants = _loaded()


@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_every_mutant_still_fits_the_code_and_names_tests_that_exist(mutant: Any) -> None:
    assert mutants.text_of(mutant).count(mutant.old) == 1
    assert (mutants.ROOT / mutant.tests).exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", mutants.MUTANTS, ids=lambda mutant: mutant.name)
def test_an_inverted_promise_fails_a_test(mutant: Any) -> None:
    assert mutants.verdict(mutant) == "killed"
