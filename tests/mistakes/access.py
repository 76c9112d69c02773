"""Mistakes with tokens, and with the consumer of the decisions."""

from __future__ import annotations

from mistakes.options import wrote
from mistakes.planted import Mistake, Pilot, edited


def issued(pilot: Pilot) -> None:
    assert pilot.here("token", "issue", "collections").code == 0


def damaged(pilot: Pilot) -> None:
    issued(pilot)
    file = pilot.root / "var" / "control" / "tokens.json"
    file.write_text(file.read_text(encoding="utf-8")[:-20], encoding="utf-8")


def named(url: str) -> dict[str, str]:
    return {"PILOT_DOWNSTREAM__URL": url}


SERVE = ("serve", "--port", "0")

MISTAKES = (
    Mistake(
        "a token without a name",
        ("token", "issue"),
        ("Missing argument", "name", "`pilot --help`"),
    ),
    Mistake(
        "a token with a name that there is",
        ("token", "issue", "collections"),
        ("tokens.json: there is a token called 'collections' already", "pilot token revoke collections"),
        issued,
    ),
    Mistake(
        "a token with a name that is none",
        ("token", "issue", "Collections Team"),
        ("token name: not a name for a token", "such as collections"),
        rare=True,
    ),
    Mistake(
        "a scope that there is not",
        ("token", "issue", "collections", "--scope", "decide", "--scope", "everything"),
        (
            "token scopes: there is no scope 'everything'",
            "Use decide, outcomes, feedback, read, operate, approve",
        ),
    ),
    Mistake(
        "two scopes behind one --scope",
        ("token", "issue", "collections", "--scope", "decide,read"),
        ("token scopes: there is no scope 'decide,read'", "each after a --scope of its own"),
        here=True,
    ),
    Mistake(
        "a token for a time and not for days",
        ("token", "issue", "collections", "--days", "90d"),
        ("--days", "valid integer", "`pilot --help`"),
        here=True,
    ),
    Mistake(
        "taking away a token by itself and not by its name",
        ("token", "revoke", "pilot_" + "0" * 64),
        ("token name: that is a token itself, and not its name", "`pilot token list` shows the names"),
        here=True,
    ),
    Mistake(
        "listing tokens of a damaged file",
        ("token", "list"),
        ("tokens.json: the tokens cannot be trusted, and nobody is let in", "not JSON", "Restore the file"),
        damaged,
        here=True,
    ),
    Mistake(
        "a token for no day",
        ("token", "issue", "collections", "--days", "0"),
        ("--days", "`pilot --help`"),
    ),
    Mistake(
        "taking away a token that there is not",
        ("token", "revoke", "colections"),
        ("tokens.json: there is no token called 'colections'", "`pilot token list`"),
        issued,
    ),
    Mistake(
        "a damaged file of tokens",
        ("token", "issue", "more"),
        ("tokens.json: the tokens cannot be trusted, and nobody is let in", "not JSON", "Restore the file"),
        damaged,
    ),
    Mistake(
        "a token with a blank in it",
        ("decide", "record.json"),
        ("PILOT_TOKEN: not a token: it holds a blank", "Set it to what `pilot token issue` showed"),
        wrote("record.json", "{}"),
        more={"PILOT_TOKEN": "pilot_ 0000"},
    ),
    Mistake(
        "a consumer elsewhere in the sandbox",
        SERVE,
        ("pilot.toml [downstream] url: the sandbox delivers to this machine only, not to erp.example.org",),
        more=named("https://erp.example.org/decisions"),
    ),
    Mistake(
        "a consumer's address that is none",
        SERVE,
        ("pilot.toml [downstream]: 'url': write http://host/path",),
        more=named("erp.example.org/decisions"),
    ),
    Mistake(
        "a secret in pilot.toml",
        SERVE,
        ("pilot.toml [downstream] secret: a secret does not belong", "PILOT_DOWNSTREAM__SECRET"),
        edited("pilot.toml", "[downstream]", '[downstream]\nsecret = "for everybody to read"'),
    ),
    Mistake(
        "a secret that is soon guessed",
        SERVE,
        ("pilot.toml [downstream]: 'secret': a secret has 16 characters at least",),
        more={"PILOT_DOWNSTREAM__SECRET": "hush"},
    ),
)
