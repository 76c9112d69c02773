"""Notes of releases as data: which ones a pilot is told, and that a wrong file is one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel

from pilot_template.update import notes
from pilot_template.update.notes import Notes, NotesError, Setting, Step


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version in ("0.1.0", "0.2.0", "0.10.0"):
        text = f"version: {version}\nsummary: What {version} is.\n"
        (tmp_path / f"{version}.yaml").write_text(text, encoding="utf-8")
    (tmp_path / "next.yaml").write_text("summary: What comes.\n", encoding="utf-8")
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("0.1.0", "0.2.0", ["0.2.0"]),
        ("v0.1.0", "v0.10.0", ["0.2.0", "0.10.0"]),
        ("0.2.0", "0.2.0", []),
        ("0.10.0", "0.2.0", []),
        (None, "0.2.0", ["0.1.0", "0.2.0"]),
        ("0.2.0-3-gfc22e71", "0.10.0", ["0.10.0"]),
        ("0.1.0", "v0.2.0-3-gfc22e71", ["0.2.0"]),
        ("0.2.0", "0.10.0-1-gfc22e71", ["0.10.0", None]),
        ("0.10.0", "0.10.0.post2.dev0+abc", [None]),
        ("0.0.0.post5.dev0+abc", "0.1.0", ["0.1.0"]),
        ("0.2.0rc1", "0.2.0", ["0.2.0"]),
    ],
)
def test_a_pilot_is_told_what_lies_between(
    folder: Path, old: str | None, new: str, told: list[str | None]
) -> None:
    assert [each.version for each in notes.between(old, new, folder)] == told


def test_before_there_is_any_release_what_comes_is_told(tmp_path: Path) -> None:
    (tmp_path / "next.yaml").write_text("summary: What comes.\n", encoding="utf-8")
    assert [each.summary for each in notes.between(None, "0.0.1", tmp_path)] == ["What comes."]


@pytest.mark.parametrize("version", ["", "main", "fc22e71x"])
def test_what_is_no_version_is_told(folder: Path, version: str) -> None:
    with pytest.raises(NotesError, match=r"is no version\. Write it as"):
        notes.between("0.1.0", version, folder)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("0.3.0.yaml", "summary: [", "0.3.0.yaml: it is no YAML: "),
        ("0.3.0.yaml", "summary: A.\n", "0.3.0.yaml: version is None. Give it `version: 0.3.0`."),
        ("next.yaml", "version: 0.3.0\nsummary: A.\n", "next.yaml: version is 0.3.0. Give it no version"),
        ("next.yaml", "summary: no end\n", "next.yaml: summary: String should match pattern"),
        ("next.yaml", "", "next.yaml: the file: "),
        ("next.yaml", "summary: A.\nteams_do: [{do: a}]\n", "next.yaml: teams_do.0.do: "),
        ("next.yaml", "summary: A.\nseeds: [/etc/passwd]\n", "next.yaml: seeds.0: "),
        ("next.yaml", "summary: A.\nretire: []\n", "next.yaml: retire: Extra inputs"),
        (
            "next.yaml",
            "summary: A.\nnew_settings: [{file: pilot.toml, key: a}]\n",
            "next.yaml: new_settings.0.",
        ),
    ],
)
def test_a_wrong_file_is_one_line(folder: Path, name: str, text: str, message: str) -> None:
    (folder / name).write_text(text, encoding="utf-8")
    with pytest.raises(NotesError) as caught:
        notes.all_notes(folder)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_what_teams_do_is_a_list_in_markdown() -> None:
    found = Notes(
        summary="New.",
        teams_do=(Step(do="Set it up.", command="make setup"), Step(when="you serve", do="Start anew.")),
        new_settings=(Setting(file="pilot.toml", key="a.b", default="1", meaning="How many."),),
        seeds=("docs/a.md", "docs/b.md"),
        retired=("old.cfg",),
    )
    assert notes.what_teams_do([found]) == (
        "- Set it up. `make setup`\n"
        "- You serve: Start anew.\n"
        "- New setting `a.b` in `pilot.toml`, by default `1`: How many.\n"
        "- New files of yours: `docs/a.md`, `docs/b.md`.\n"
        "- No longer the standard's: `old.cfg`.\n"
    )
    assert notes.what_teams_do([Notes(summary="Nothing.")]) == "- Nothing.\n"


def test_the_notes_that_are_shipped_can_be_read_and_name_settings_that_there_are() -> None:
    from harness.settings import Settings

    shipped = notes.all_notes()
    assert shipped[0].version == "0.1.0"
    settings = [each for found in shipped for each in found.new_settings if each.file == "pilot.toml"]
    assert len(settings) >= 4
    for setting in settings:
        table, key = setting.key.split(".")
        field = type(getattr(Settings.model_fields[table], "default")).model_fields[key]  # noqa: B009
        default = field.get_default(call_default_factory=True)
        told = "{}" if isinstance(default, BaseModel) else str(default)  # a table of its own, with defaults
        assert told.lower() == setting.default.strip('"').lower(), setting.key
