"""The tests notice when a gate or a default is inverted."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest


def _loaded() -> Any:
    spec = importlib.util.spec_from_file_location("mutants", Path(__file__).with_name("mutants.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


mutants = _loaded()


@pytest.mark.parametrize("mutant", mutants.everything(), ids=lambda mutant: mutant.name)
def test_34_every_mutant_still_fits_the_code_and_names_tests_that_exist(mutant: Any) -> None:
    assert (mutants.SOURCE / mutant.file).read_text(encoding="utf-8").count(mutant.old) == 1
    assert (Path(__file__).parent / mutant.tests).exists()


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("mutant", mutants.everything(), ids=lambda mutant: mutant.name)
def test_34_an_inverted_gate_fails_a_test(mutant: Any) -> None:
    assert mutants.verdict(mutant) == "killed"
