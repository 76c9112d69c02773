"""Answers are refused with a mend, or read back unchanged from every file that they are written to."""

from __future__ import annotations

import itertools
import json
import keyword
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from rendering import ROOT, documents, render, values

FREE_TEXT = ["pilot_name", "purpose", "team", "owner", "on_call", "alerts", "package_name"]
ANY_TEXT = {"pilot_name", "purpose", "team"}
HOSTILE_AND_FINE = {
    "double quotes": 'a "b" c',
    "single quotes": "it's 'b'",
    "backslashes": "C:\\new\\table",
    "backslash at the end": "a\\",
    "triple quotes": '"""a"""',
    "jinja": "{{ 7 * 7 }} {% raw %}",
    "jinja comment": "{# a #}",
    "yaml mapping": "a: b # c",
    "yaml list": "- a",
    "yaml truth": "yes",
    "yaml null": "~",
    "yaml anchor": "&a *b !c",
    "yaml document": "---",
    "number": "012",
    "date": "2024-01-01",
    "toml table": "[pilot]",
    "toml comment": '" # a',
    "shell": "$(touch a) `b` ; c && d | e",
    "variable": "${HOME} $PATH %PATH%",
    "heading": "# x",
    "heading at the end": "x ##",
    "html": "<script>alert(1)</script>",
    "html comment": "<!-- a",
    "entity": "&amp; &lt; &#35;",
    "emphasis": "*a* _b_ ~~c~~ `d` ``e",
    "link": "![a](b) [c](d) <https://example.org>",
    "table": "a | b | c",
    "quote": "> a",
    "fence": "```",
    "emoji": "payé 🙂 支払い",
    "combining": "e\u0301 \u00df \u0130",
    "inner space": "a  b\u00a0c",
    "path": "../../etc/passwd",
    "braces": "}} %} #}",
}
HOSTILE_AND_WRONG = {
    "empty": "",
    "blank": "   ",
    "leading space": " a",
    "trailing space": "a ",
    "no-break space": "\u00a0a",
    "line end": "a\nb",
    "line end last": "a\n",
    "carriage return": "a\rb",
    "tab": "a\tb",
    "nul": "a\x00b",
    "escape": "a\x1b[31mb",
    "delete": "a\x7fb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    "byte order mark": "\ufeffa",
    "no character": "a\uffff",
    "surrogate": "a\ud800b",
    "right to left": "a\u202eb",
    "too long": "a" * 301,
}
MEND = re.compile(r"(Write|Remove|Shorten|Use|Choose|Answer) ")


def markdown_text(path: Path) -> str:
    """What a reader sees; fails if the file holds HTML."""
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(path.read_text(encoding="utf-8"))
    inline = [child for token in tokens for child in token.children or []]
    assert not [token.type for token in [*tokens, *inline] if "html" in token.type]
    return "".join(token.content for token in inline)


def headings(path: Path) -> int:
    tokens = MarkdownIt("gfm-like", {"linkify": False}).parse(path.read_text(encoding="utf-8"))
    return sum(token.type == "heading_open" for token in tokens)


def refusal(rendered: Callable[..., Path], name: str, answer: str) -> str:
    with pytest.raises(ValueError, match=f"Validation error for question '{name}'") as caught:
        rendered(**{name: answer})
    return str(caught.value)


@pytest.fixture(scope="module")
def plain_headings(lean_template: Path, tmp_path_factory: pytest.TempPathFactory) -> int:
    """How many headings the README has whose answers are harmless."""
    return headings(render(lean_template, tmp_path_factory.mktemp("plain") / "pilot") / "README.md")


@pytest.mark.parametrize("answer", HOSTILE_AND_FINE.values(), ids=HOSTILE_AND_FINE)
def test_hostile_text_reads_back_by_value(
    rendered: Callable[..., Path], plain_headings: int, answer: str
) -> None:
    pilot = rendered(**dict.fromkeys(ANY_TEXT, answer))
    read = documents(pilot)
    for name in ("pilot_name", "purpose", "team"):
        assert read[".copier-answers.yml"][name] == answer
        assert read["pilot.toml"]["pilot"][name.removeprefix("pilot_")] == answer
    assert read["pyproject.toml"]["project"]["description"] == answer
    assert markdown_text(pilot / "README.md").count(answer) >= 3
    assert headings(pilot / "README.md") == plain_headings


@pytest.mark.parametrize("answer", HOSTILE_AND_FINE.values(), ids=HOSTILE_AND_FINE)
def test_what_is_no_contact_target_or_package_is_refused_with_a_mend(checks: Any, answer: str) -> None:
    for check in (checks.contact, checks.alert_target, checks.package):
        assert MEND.search(check(answer)), check


@pytest.mark.parametrize("answer", HOSTILE_AND_WRONG.values(), ids=HOSTILE_AND_WRONG)
def test_text_that_cannot_be_kept_is_refused_with_a_mend(checks: Any, answer: str) -> None:
    refusals = [
        checks.text(answer, 300),
        checks.contact(answer),
        checks.alert_target(answer),
        checks.package(answer),
    ]
    assert all(MEND.search(each) for each in refusals), refusals


@pytest.mark.parametrize("name", FREE_TEXT)
def test_every_free_text_is_checked_by_copier(rendered: Callable[..., Path], name: str) -> None:
    for answer in ("", "a\nb", "a" * 301):
        assert MEND.search(refusal(rendered, name, answer))


@pytest.mark.parametrize(
    "answer",
    [
        "TODO",
        "owner@example.org",
        "a.b+c@mail.example.co.uk",
        "#pilots",
        "#on-call_1",
        "https://example.org/on-call?a=b&c=d#e",
    ],
)
def test_a_contact_reads_back_by_value(rendered: Callable[..., Path], answer: str) -> None:
    pilot = rendered(owner=answer, on_call=answer)
    read = documents(pilot)
    assert list(values(read["pilot.toml"])).count(answer) >= 2
    assert list(values(read[".copier-answers.yml"])).count(answer) >= 2
    assert markdown_text(pilot / "README.md").count(answer) >= 2


@pytest.mark.parametrize(
    "answer",
    [
        "todo",
        "someone",
        "a@b",
        "@example.org",
        "a@b@example.org",
        "#",
        "#a b",
        "http://example.org",
        "https://",
        "javascript:a",
    ],
)
def test_what_reaches_nobody_is_no_contact(checks: Any, answer: str) -> None:
    assert "Write an e-mail address" in checks.contact(answer)


@pytest.mark.parametrize(
    "answer", ["log", "mailtos://mail.example.org", "slack://?a=b&c=d", "json://localhost:8080/a"]
)
def test_an_alert_target_reads_back_by_value(rendered: Callable[..., Path], answer: str) -> None:
    assert documents(rendered(alerts=answer))["pilot.toml"]["alerts"]["target"] == answer


@pytest.mark.parametrize("answer", ["Log", "logs", "example.org", "://a", "mailto:a@example.org"])
def test_what_receives_nothing_is_no_alert_target(checks: Any, answer: str) -> None:
    assert "Write log, or an Apprise address" in checks.alert_target(answer)


def test_a_password_is_no_answer(checks: Any) -> None:
    assert "PILOT_ALERTS__TARGET" in checks.alert_target("mailtos://user:" + "word@example.org")


@pytest.mark.parametrize("answer", ["late_payment", "a", "churn2", "x_1", "a" * 40, "late_payment_pilot"])
def test_package_names_that_work(rendered: Callable[..., Path], answer: str) -> None:
    pilot = rendered(package_name=answer)
    assert documents(pilot)["pyproject.toml"]["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == [
        f"src/{answer}"
    ]


@pytest.mark.parametrize(
    "answer",
    [
        "Late",
        "1st",
        "late-payment",
        "late payment",
        "late.payment",
        "_x",
        "x_",
        "a__b",
        "ünï",
        "late\n",
        "a" * 41,
        *("class", "match", "none", "yes", "json", "site", "ibis", "polars", "sklearn", "yaml"),
        *("harness", "pilot", "test", "tests", "docs"),
    ],
)
def test_package_names_that_break_something(rendered: Callable[..., Path], answer: str) -> None:
    assert MEND.search(refusal(rendered, "package_name", answer))


def test_no_name_of_python_or_of_a_pinned_package_is_free() -> None:
    taken = set((ROOT / "questions" / "taken.txt").read_text(encoding="utf-8").split())
    pins = (ROOT / "template" / "harness" / "constraints.txt").read_text(encoding="utf-8")
    wanted = {name.replace("-", "_") for name in re.findall(r"^([a-z0-9-]+)==", pins, re.M)}
    wanted |= sys.stdlib_module_names | set(keyword.kwlist) | set(keyword.softkwlist)
    missing = {name for name in wanted if re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", name)} - taken
    assert sorted(missing) == [], "add them to questions/taken.txt"


@pytest.mark.parametrize(
    ("name", "package"),
    [
        ("Late payment", "late_payment"),
        ("2024 Churn!", "churn"),
        ("支払い", "my_pilot"),
        ("JSON", "json_pilot"),
        ("x" * 80, "x" * 33),
    ],
)
def test_the_package_follows_from_the_name(rendered: Callable[..., Path], name: str, package: str) -> None:
    assert documents(rendered(pilot_name=name))["pilot.toml"]["pilot"]["package"] == package


@settings(max_examples=300, deadline=None)
@given(name=st.text(min_size=1, max_size=82))
def test_any_name_that_is_accepted_gives_a_package_and_reads_back(checks: Any, name: str) -> None:
    if checks.text(name, 80):
        assert MEND.search(checks.text(name, 80))
        return
    assert checks.package(checks.package_from(name)) == ""
    written = json.dumps(name, ensure_ascii=False)
    assert tomllib.loads(f"a = {written}") == {"a": name}
    assert yaml.safe_load(f"a: {written}") == {"a": name}


def pairwise(choices: dict[str, list[str]]) -> list[dict[str, str]]:
    """Rows in which every pair of values of two questions occurs at least once, found greedily."""

    def pairs(row: tuple[str, ...]) -> set[tuple[tuple[str, str], ...]]:
        return set(itertools.combinations(zip(choices, row, strict=True), 2))

    every = list(itertools.product(*choices.values()))
    open_pairs = set().union(*map(pairs, every))
    rows = []
    while open_pairs:
        best = max(every, key=lambda row: len(pairs(row) & open_pairs))
        open_pairs -= pairs(best)
        rows.append(dict(zip(choices, best, strict=True)))
    return rows


CHOICES = {
    "use_case": ["classification", "regression"],
    "risk_tier": ["minimal", "limited", "high"],
    "data_classification": ["public", "internal", "confidential", "restricted"],
    "ci": ["github", "gitlab", "none"],
    "python_version": ["3.11", "3.12", "3.13"],
}


@pytest.mark.parametrize("answers", pairwise(CHOICES), ids=lambda answers: "-".join(answers.values()))
def test_any_two_choices_go_together(rendered: Callable[..., Path], answers: dict[str, str]) -> None:
    read = documents(rendered(**answers))
    assert answers.items() <= read[".copier-answers.yml"].items()
    for name in ("use_case", "risk_tier", "data_classification"):
        assert read["pilot.toml"]["pilot"][name] == answers[name]


@pytest.mark.parametrize("name", CHOICES)
def test_what_is_no_choice_is_refused(rendered: Callable[..., Path], name: str) -> None:
    with pytest.raises(ValueError, match="Invalid choice"):
        rendered(**{name: "other"})
