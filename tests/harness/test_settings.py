"""pilot.toml is read once, the environment wins, and a mistake is told with its mend."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from harness.errors import PilotError
from harness.settings import find_root, load_settings
from harness.source_kinds import CsvSource, PostgresSource


def edited(tiny: Any, text: str) -> Any:
    tiny.toml.write_text(tiny.toml.read_text() + text)
    return tiny


def said(tiny: Any) -> str:
    with pytest.raises(PilotError) as told:
        tiny.settings()
    assert told.value.exit_code == 2
    assert "\n" not in str(told.value)
    return str(told.value)


def test_what_the_file_leaves_out_has_its_default(tiny: Any) -> None:
    settings = tiny.settings()
    assert settings.root == tiny.root
    assert (settings.serving.host, settings.serving.port, settings.data.max_bad_share) == (
        "127.0.0.1",
        0,
        0.05,
    )
    assert settings.experiment == "dryfield"
    assert isinstance(settings.sources["probes"], CsvSource)
    assert isinstance(settings.sources["weather"], PostgresSource)
    assert settings.embedded


def test_settings_cannot_be_changed_under_way(tiny: Any) -> None:
    settings = tiny.settings()
    with pytest.raises(ValueError, match="frozen"):
        settings.serving.port = 1
    with pytest.raises(ValueError, match="frozen"):
        settings.root = Path("/")


@pytest.mark.parametrize(
    ("text", "unknown", "meant"),
    [
        ("\n[store]\nurll = 'x'\n", "urll", "url"),
        ("\n[data]\nmax_bad_shar = 0.1\n", "max_bad_shar", "max_bad_share"),
        ("\n[sandbx]\nsamples = []\n", "sandbx", "sandbox"),
        ("\n[sources.more]\nkind = 'csv'\npath = 'x'\nurll = 'y'\n", "urll", "url"),
        ("\n[control]\nfoldr = 'x'\n", "foldr", "folder"),
    ],
)
def test_an_unknown_key_is_told_with_the_one_that_was_meant(
    tiny: Any, text: str, unknown: str, meant: str
) -> None:
    message = said(edited(tiny, text))
    assert f"unknown key '{unknown}'" in message
    assert f"Did you mean '{meant}'?" in message


def test_a_key_like_no_other_is_to_be_removed(tiny: Any) -> None:
    assert "Remove it." in said(edited(tiny, "\n[store]\nzzzzzz = 1\n"))


@pytest.mark.parametrize(
    ("text", "section", "key"),
    [
        ("\n[data]\nmax_bad_share = 'many'\n", "[data]", "max_bad_share"),
        ("\n[data]\nmax_bad_share = 1.5\n", "[data]", "max_bad_share"),
        ("\n[data]\nengine = 'abacus'\n", "[data]", "engine"),
        ("\n[store]\nurl = 5\n", "[store]", "url"),
        ("\n[sources.more]\nkind = 'csv'\npath = 3\n", "[sources.more]", "path"),
        ("\n[downstream]\nurl = 'erp.example.org/decisions'\n", "[downstream]", "url"),
        ("\n[downstream]\nurl = 'ftp://erp.example.org'\n", "[downstream]", "url"),
        ("\n[downstream]\nurl = 'http://'\n", "[downstream]", "url"),
        ("\n[slo]\nrate_per_s = 0\n", "[slo]", "rate_per_s"),
        ("\n[slo]\np95_ms = 100\np99_ms = 50\n", "[slo]", "p99_ms"),
        ("\n[downstream]\nurl = 'http://[::1/x'\n", "[downstream]", "url"),
    ],
)
def test_a_wrong_value_is_told_with_its_section_and_key(tiny: Any, text: str, section: str, key: str) -> None:
    message = said(edited(tiny, text))
    assert section in message
    assert f"'{key}'" in message


def test_a_source_of_an_unknown_kind_is_told_with_the_kinds_that_there_are(tiny: Any) -> None:
    message = said(edited(tiny, "\n[sources.more]\nkind = 'fax'\n"))
    assert '[sources.more]: there is no source of kind "fax". Use one of postgres, csv, files,' in message


def test_a_missing_section_and_a_missing_key_are_named(tiny: Any) -> None:
    whole = tiny.toml.read_text()
    tiny.toml.write_text(whole.replace('owner = "owner@example.org"\n', ""))
    assert "[pilot]: 'owner' is missing" in said(tiny)
    tiny.toml.write_text(whole[whole.index("[sources.probes]") :])
    assert "'pilot' is missing" in said(tiny)
    tiny.toml.write_text(whole[: whole.index("[sources.probes]")])
    assert "'sources' is missing" in said(tiny)


def test_a_secret_comes_from_the_environment_only_and_is_never_shown(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = tiny.toml.read_text()
    message = said(edited(tiny, "\n[downstream]\nsecret = 'zq-7731-zq-7731-zq'\n"))
    assert "[downstream] secret: a secret does not belong into a file" in message
    assert "PILOT_DOWNSTREAM__SECRET" in message
    assert "7731" not in message
    tiny.toml.write_text(whole)
    monkeypatch.setenv("PILOT_DOWNSTREAM__SECRET", "zq-7731")
    message = said(tiny)
    assert "'secret': a secret has 16 characters at least" in message
    assert "7731" not in message
    monkeypatch.setenv("PILOT_DOWNSTREAM__SECRET", "zq-7731-zq-7731-zq")
    settings = tiny.settings()
    assert settings.downstream.secret.get_secret_value() == "zq-7731-zq-7731-zq"
    assert "7731" not in repr(settings)
    assert "7731" not in settings.model_dump_json()


def test_a_token_in_the_environment_is_no_setting(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_TOKEN", "pilot_x")
    assert tiny.settings().serving.open_in_sandbox


def test_what_is_no_toml_is_told_with_the_file_and_line(tiny: Any) -> None:
    message = said(edited(tiny, "\n[store\n"))
    assert "not valid TOML" in message
    assert str(tiny.toml) in message
    assert "line" in message


def test_what_is_no_utf8_is_told(tiny: Any) -> None:
    tiny.toml.write_bytes(tiny.toml.read_bytes() + b"\n# gr\xfcn\n")
    assert "not valid TOML" in said(tiny)


def test_a_missing_file_or_a_folder_in_its_place_is_told(tiny: Any, tmp_path: Path) -> None:
    tiny.toml.unlink()
    assert "missing" in said(tiny)
    tiny.toml.mkdir()
    assert "cannot be read" in said(tiny)
    with pytest.raises(PilotError, match=r"no pilot\.toml here"):
        find_root(tmp_path)


def test_the_nearest_file_upwards_is_taken(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tiny.root / "src" / "dryfield")
    assert load_settings().root == tiny.root


def test_the_environment_wins_over_the_file(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PILOT_SERVING__PORT", "9000")
    monkeypatch.setenv("PILOT_SOURCES__WEATHER__URL", "postgresql://host/db")
    monkeypatch.setenv("PILOT_STORE__URL", "postgresql://other/db")
    settings = tiny.settings()
    assert settings.serving.port == 9000
    assert settings.serving.host == "127.0.0.1"
    assert settings.sources["weather"] == PostgresSource(kind="postgres", url="postgresql://host/db")
    assert settings.sources["probes"] == CsvSource(kind="csv", path=Path("var/sources/probes"))
    assert settings.store.url == "postgresql://other/db"
    assert not settings.embedded


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("PILOT_SERVING__PORT", "many", "'port'"),
        ("PILOT_SERVING__PORT", "70000", "'port'"),
        ("PILOT_SERVING__PROT", "9000", "Did you mean 'port'?"),
        ("PILOT_SERVING", "no json", "environment"),
    ],
)
def test_a_mistake_in_the_environment_is_told(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, name: str, value: str, told: str
) -> None:
    monkeypatch.setenv(name, value)
    assert told in said(tiny)


def test_a_root_is_refused_in_the_file_and_ignored_in_the_environment(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PILOT_ROOT", str(tmp_path))
    assert tiny.settings().root == tiny.root
    whole = tiny.toml.read_text()
    tiny.toml.write_text(f'root = "{tmp_path}"\n{whole}')
    assert "unknown key 'root'" in said(tiny)


@pytest.mark.parametrize(
    ("url", "below_root"),
    [
        ("sqlite:///var/decisions.db", True),
        ("sqlite:////elsewhere/decisions.db", False),
        ("postgresql://host/db", False),
    ],
)
def test_a_relative_sqlite_path_starts_at_the_pilots_root(tiny: Any, url: str, below_root: bool) -> None:
    expected = f"sqlite:///{tiny.root}/var/decisions.db" if below_root else url
    assert tiny.settings().sqlite_url(url) == expected


@pytest.mark.parametrize(
    ("path", "simulated"),
    [
        ("var/sources/x", True),
        ("data/x", False),
        ("var/../data", False),
        ("/var/x", False),
        ("variant/x", False),
    ],
)
def test_only_what_lies_below_var_may_be_simulated(tiny: Any, path: str, simulated: bool) -> None:
    settings = edited(tiny, f"\n[sources.more]\nkind = 'csv'\npath = '{path}'\n").settings()
    assert settings.simulated("more") is simulated


@pytest.mark.parametrize("name", ["PILOT_STORE__URL", "PILOT_TRACKING__URI", "PILOT_ALERTS__TARGET"])
def test_a_variable_that_is_set_to_nothing_is_not_set(
    tiny: Any, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """CI sets every secret that it knows, filled or not."""
    before = tiny.settings()
    monkeypatch.setenv(name, "")
    assert tiny.settings() == before
    monkeypatch.setenv(name, "sqlite:///other.db")
    assert tiny.settings() != before
