"""copier.yml and the question files: what they must not hold, and what every question must."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from copier._template import Template

from rendering import ROOT

ASKED = [
    "pilot_name",
    "package_name",
    "purpose",
    "use_case",
    "team",
    "owner",
    "on_call",
    "risk_tier",
    "data_classification",
    "ci",
    "python_version",
    "alerts",
]


@pytest.fixture(scope="module")
def template(whole_template: Path) -> Template:
    return Template(url=str(whole_template))


@pytest.fixture(scope="module")
def questions(template: Template) -> dict[str, Any]:
    return template.questions_data


def test_nothing_asks_for_trust(template: Template) -> None:
    assert not {"tasks", "migrations", "jinja_extensions"} & set(template.config_data)
    for path in (ROOT / "copier.yml", *(ROOT / "questions").iterdir(), *(ROOT / "ownership").iterdir()):
        assert not {"_tasks", "_migrations", "_jinja_extensions"} & set(
            path.read_text(encoding="utf-8").split(":")
        )


def test_every_question_file_is_included_by_name() -> None:
    text = (ROOT / "copier.yml").read_text(encoding="utf-8")
    included = [line.split()[1] for line in text.splitlines() if line.startswith("!include")]
    files = [path for folder in ("questions", "ownership") for path in (ROOT / folder).glob("*.yml")]
    assert sorted(included) == sorted(path.relative_to(ROOT).as_posix() for path in files)


def test_these_are_asked_and_no_more_than_twelve(questions: dict[str, Any]) -> None:
    asked = [name for name, question in questions.items() if question.get("when") is not False]
    assert asked == ASKED
    assert len(asked) <= 12


@pytest.mark.parametrize("name", ASKED)
def test_a_question_has_help_a_default_and_a_check(questions: dict[str, Any], name: str) -> None:
    question = questions[name]
    assert question["type"] == "str"
    assert question["help"].rstrip().endswith((".", "?"))
    assert max(map(len, question["help"].splitlines())) <= 90
    assert question["default"]
    assert bool(question.get("choices")) != bool(question.get("validator"))


def test_computed_values_are_never_asked(questions: dict[str, Any]) -> None:
    computed = yaml.safe_load((ROOT / "questions" / "computed.yml").read_text(encoding="utf-8"))
    assert computed
    assert all(questions[name]["when"] is False for name in computed)
