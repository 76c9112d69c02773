"""A document says what was written, and every mistake in it at once, by file, field and mend."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import yaml

from governed import filled, put, seeds, written
from harness.errors import PilotError
from harness.governance import Document, NotApplicable, OrNotApplicable, Part, Pending, Text, Unfilled
from harness.governance.checks import contradictions
from harness.governance.document import examine, parse, placeholders, read
from harness.governance.documents import BY_NAME, KINDS, Kind, read_all
from harness.governance.markdown import anchor, sections

Path_ = tuple[str | int, ...]


@pytest.fixture
def pilot(tmp_path: Path) -> Callable[[dict[str, str]], Path]:
    """A folder with documents, and a pilot.toml that reads what the filled ones list."""

    def pilot(documents: dict[str, str]) -> Path:
        sources = "".join(f'[sources.{name}]\nkind = "csv"\n' for name in ("probes", "weather"))
        toml = f'[pilot]\nrisk_tier = "limited"\n{sources}'
        for path, text in {**documents, "pilot.toml": toml}.items():
            file = tmp_path / path
            file.parent.mkdir(exist_ok=True)
            file.write_text(text, encoding="utf-8")
        return tmp_path

    return pilot


def front(text: str) -> Any:
    return parse(text.split("---\n", 2)[1] if text.startswith("---\n") else text)


def with_front(text: str, values: Any) -> str:
    """The document with other values; a Markdown document keeps its sections."""
    if not text.startswith("---\n"):
        return written(values)
    return f"---\n{written(values)}---\n{text.split('---', 2)[2].lstrip()}"


def said(kind: Kind, root: Path) -> list[str]:
    return [str(each) for each in kind.examine(root)[1]]


# ---------------------------------------------------------------- as a new pilot gets them
@pytest.mark.parametrize("path", sorted(seeds()))
def test_a_seed_is_short_and_says_whose_it_is_and_why(path: str) -> None:
    lines = seeds()[path].splitlines()
    first = lines[1] if path.endswith(".md") else lines[0]
    assert re.fullmatch(r"# Yours: .*\. .*\.", first), "what it is, and what it is good for"
    if path != "governance/monitoring.yaml":
        assert len(lines) <= 60
    if path.endswith(".yaml"):
        name = Path(path).stem
        assert lines[1] == f"# yaml-language-server: $schema=../harness/schemas/{name}.schema.json"


def test_the_seeds_are_valid_as_they_come(pilot: Any) -> None:
    root = pilot(seeds())
    documents, findings = read_all(root)
    assert findings == []
    sources = [each for each in contradictions(documents) if each.field.startswith("upstream")]
    assert contradictions(documents) == sources, "their sources are the template's own example's"


def test_every_document_asks_for_something_only_a_person_knows(pilot: Any) -> None:
    documents, _ = read_all(pilot(seeds()))
    for kind in KINDS:
        assert placeholders(documents.read[kind.name]), kind.path


def test_the_filled_ones_hold_no_placeholder_and_no_contradiction(pilot: Any) -> None:
    documents, findings = read_all(pilot(filled()))
    assert findings == []
    assert contradictions(documents) == []
    assert [path for each in documents.read.values() for path in placeholders(each)] == []


# ------------------------------------------------------------ for each: a wrong key, a wrong type, a sentinel
WRONG: dict[str, tuple[Path_, str, str]] = {
    "system": (("value", "baseline"), "much", "a number is wanted, not 'much'"),
    "owners": (("escalation", 0, "after_minutes"), "soon", "a whole number is wanted, not 'soon'"),
    "risks": (("risks", 0, "level"), "huge", "'low', 'medium' or 'high'"),
    "integrations": (("upstream",), "probes", "keys with values are wanted"),
    "monitoring": (("signals", 0, "threshold"), "wide", "a number is wanted, not 'wide'"),
    "rollout": (("stages", "early", "percent"), "10 %", "a whole number is wanted, not '10 %'"),
    "stakeholders": (("review", "held_on"), "last week", "a date is wanted, as 2026-03-31"),
    "tco": (("production", "total"), "a lot", "a number is wanted"),
    "model-card": (("review_by",), "31.03.2027", "a date is wanted, as 2026-03-31"),
    "runbook": (("last_drill",), "yesterday", "a date is wanted, as 2026-03-31"),
}
PENDING = {"system", "risks", "stakeholders", "tco", "model-card", "runbook"}


@pytest.mark.parametrize("name", BY_NAME)
def test_a_wrong_type_is_told_with_its_field_and_mend(pilot: Any, name: str) -> None:
    kind = BY_NAME[name]
    path, value, told = WRONG[name]
    text = filled()[kind.path]
    values = front(text)
    put(values, path, value)
    [line] = said(kind, pilot({kind.path: with_front(text, values)}))
    assert line.startswith(f"{kind.path} {'.'.join(map(str, path))}: ")
    assert told in line
    mend = "Correct it, or write TODO while it is not known." if name in PENDING else "Correct it."
    assert line.endswith(mend)


@pytest.mark.parametrize("name", BY_NAME)
def test_an_unknown_key_is_told_with_what_was_meant(pilot: Any, name: str) -> None:
    kind = BY_NAME[name]
    text = filled()[kind.path]
    values = front(text)
    values["reviewby"] = values.pop("review_by")
    values["colour"] = "green"
    lines = said(kind, pilot({kind.path: with_front(text, values)}))
    assert f"{kind.path}: unknown key 'reviewby'. Did you mean 'review_by'?" in lines
    assert f"{kind.path}: unknown key 'colour'. Remove it." in lines
    assert f"{kind.path}: 'review_by' is missing. Add it." in lines
    assert len(lines) == 3, "every mistake at once"


@pytest.mark.parametrize("name", BY_NAME)
def test_an_owner_cannot_be_left_open(pilot: Any, name: str) -> None:
    kind = BY_NAME[name]
    text = filled()[kind.path]
    for nobody in ("TODO", "TODO: ask", "tbd", "n.n.", "???", "-"):
        values = front(text)
        values["owner"] = nobody
        [line] = said(kind, pilot({kind.path: with_front(text, values)}))
        assert line == f"{kind.path} owner: '{nobody}' says nothing, and this cannot wait. Correct it."


@pytest.mark.parametrize("name", BY_NAME)
def test_an_empty_broken_or_missing_file_is_one_line(pilot: Any, name: str) -> None:
    kind = BY_NAME[name]
    markdown = kind.path.endswith(".md")
    root = pilot({kind.path: ""})
    told = "it does not begin with front matter" if markdown else "it holds no keys"
    assert [told in line for line in said(kind, root)] == [True]
    text = filled()[kind.path]
    broken = text.replace("owner:", "owner: [", 1)
    [line] = said(kind, pilot({kind.path: broken}))
    assert line.startswith(f"{kind.path}: not valid YAML: ")
    assert re.search(r", line \d+\. Correct that line\.\Z", line)
    (root / kind.path).write_bytes(b"owner: \xff\n")
    assert said(kind, root) == [f"{kind.path}: it is not UTF-8 text. Save it as UTF-8."]
    (root / kind.path).unlink()
    [line] = said(kind, root)
    assert line.startswith(f"{kind.path}: the file is missing. Bring it back")


@pytest.mark.parametrize("name", ["model-card", "runbook"])
def test_a_section_that_is_missing_is_told(pilot: Any, name: str) -> None:
    kind = BY_NAME[name]
    text = filled()[kind.path]
    heading = kind.sections[-1]
    lines = said(kind, pilot({kind.path: text.replace(f"## {heading}", "## Another")}))
    assert lines == [f"{kind.path}: the section '{heading}' is missing. Add the heading `## {heading}`."]


# ---------------------------------------------------------------- the reader
class Notice(Part):
    text: Text
    on: Pending[date]


class Sample(Document):
    notice: OrNotApplicable[Notice]
    number: Pending[int]
    flag: bool = False
    words: tuple[Text, ...] = ()


SAMPLE = (
    "owner: anna\nlast_reviewed: TODO\nreview_by: 2027-01-31\n"
    "number: 4\nnotice: {text: hello, on: 2027-01-31}\n"
)


def sample(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "governance" / "sample.yaml"
    file.parent.mkdir(exist_ok=True)
    file.write_text(text, encoding="utf-8")
    return file


def test_what_was_written_is_what_is_read(tmp_path: Path) -> None:
    for scalar in ("22:00", "no", "1.10", "012", "~", "2024-01-01", "1e3", "0x1f", "on"):
        found = read(sample(tmp_path, f"{SAMPLE}words: [{scalar}]\n"), Sample)
        assert found.words == (scalar,)
    assert read(sample(tmp_path, f"{SAMPLE}flag: yes\n"), Sample).flag is True


def test_a_sentinel_may_stand_for_a_value_of_any_kind_and_is_found(tmp_path: Path) -> None:
    found = read(sample(tmp_path, SAMPLE.replace("number: 4", "number: 'TODO: count them'")), Sample)
    assert isinstance(found.number, Unfilled)
    assert placeholders(found) == ["last_reviewed", "number"]
    assert read(sample(tmp_path, SAMPLE), Sample).number == 4


@pytest.mark.parametrize("text", ["Todos os dias", "TODOS", "a TODO list", "no", "n/a is a word", "lorem"])
def test_a_word_that_only_resembles_the_sentinel_is_a_word(tmp_path: Path, text: str) -> None:
    assert placeholders(read(sample(tmp_path, f"{SAMPLE}words: [{text}]\n"), Sample)) == ["last_reviewed"]


@pytest.mark.parametrize("text", ["TODO", "TODO who?", "TBD", "tba", "FIXME", "xxx", "...", "?", "…", "-"])
def test_what_says_nothing_is_a_placeholder(tmp_path: Path, text: str) -> None:
    found = read(sample(tmp_path, f"{SAMPLE}words: ['{text}']\n"), Sample)
    assert placeholders(found) == ["last_reviewed", "words.0"]


def test_a_key_given_twice_is_told(tmp_path: Path) -> None:
    _, [finding] = examine(sample(tmp_path, f"{SAMPLE}number: 5\n"), Sample)
    assert "the key 'number' is given twice, line 6" in finding.what
    _, [finding] = examine(sample(tmp_path, f"{SAMPLE}? [a, b]\n: 1\n"), Sample)
    assert "a key must be a text" in finding.what


def test_what_does_not_apply_says_why_and_who_agreed(tmp_path: Path) -> None:
    excuse = "{not_applicable: {reason: nobody is concerned, approver: risk}}"
    base = SAMPLE.replace("{text: hello, on: 2027-01-31}", "EXCUSE")
    found = read(sample(tmp_path, base.replace("EXCUSE", excuse)), Sample)
    assert found.notice == NotApplicable(reason="nobody is concerned", approver="risk")
    for wrong, told in (
        (
            "{not_applicable: {reason: TODO, approver: risk}}",
            "notice.not_applicable.reason: 'TODO' says nothing",
        ),
        ("{not_applicable: {reason: none}}", "notice.not_applicable: 'approver' is missing"),
        (
            "{not_applicable: {reason: none, aprover: risk}}",
            "unknown key 'aprover'. Did you mean 'approver'?",
        ),
        ("{not_applicable: {reason: a, approver: b}, text: c}", "notice: unknown key 'text'"),
        ("{not_applicable: yes}", "notice.not_applicable: keys with values are wanted"),
    ):
        _, findings = examine(sample(tmp_path, base.replace("EXCUSE", wrong)), Sample)
        assert any(told in str(each) for each in findings), findings


def test_read_tells_the_first_mistake_and_how_many_more(tmp_path: Path) -> None:
    file = sample(tmp_path, SAMPLE.replace("number: 4", "number: few").replace("text: hello", "text: ''"))
    with pytest.raises(PilotError) as caught:
        read(file, Sample)
    assert str(caught.value).startswith("governance/sample.yaml notice.text: a text is wanted, not ''")
    assert "(1 more: `pilot governance check`)" in str(caught.value)


def test_an_anchor_is_the_one_that_a_forge_gives() -> None:
    assert anchor("What it decides") == "what-it-decides"
    assert anchor("Input-drift: what now?") == "input-drift-what-now"


def test_headings_within_code_are_no_sections() -> None:
    text = "## One\n```\n## Not\n```\nmore\n~~~\n## Nor\n~~~\n## Two ##\nend\n### below\n"
    assert list(sections(text)) == ["one", "two"]
    assert sections(text)["two"] == "end\n### below"


def test_what_is_written_back_is_what_was_read() -> None:
    for path, text in filled().items():
        if path.endswith(".yaml"):
            assert parse(yaml.safe_dump(parse(text))) == parse(text), path
