"""Mistakes in a command."""

from __future__ import annotations

from collections.abc import Callable

from mistakes.planted import Mistake, Pilot


def wrote(name: str, text: str) -> Callable[[Pilot], None]:
    def make(pilot: Pilot) -> None:
        (pilot.root / name).write_text(text, encoding="utf-8")

    return make


def asked(title: str, command: tuple[str, ...], *says: str) -> Mistake:
    return Mistake(title, command, says)


MISTAKES = (
    asked("a verb that there is not", ("rnu",), "rnu", "`pilot --help`"),
    asked("an option that there is not", ("run", "--fast"), "--fast", "`pilot --help`"),
    asked("an option without its value", ("serve", "--port"), "--port", "`pilot --help`"),
    asked(
        "a port that is no number", ("serve", "--port", "http"), "--port", "valid integer", "`pilot --help`"
    ),
    asked("a port out of range", ("serve", "--port", "70000"), "--port", "65535", "`pilot --help`"),
    asked("an arming without a reason", ("arm",), "--reason", "`pilot --help`"),
    asked("an arming with an empty reason", ("arm", "--reason", " "), "--reason: a reason is needed", "Say"),
    asked("an arming when nothing is stopped", ("arm", "--reason", "x"), "there is no control state", "Run"),
    asked("no rows", ("simulate", "--rows", "0"), "--rows", "equal to 1", "`pilot --help`"),
    asked(
        "a share that is no number", ("simulate", "--missing", "few"), "--missing: 'few' is no share", "Write"
    ),
    asked("a share above one", ("simulate", "--missing", "1.5"), "simulate: missing", "Give a value"),
    asked("a profile that there is not", ("simulate", "--profile", "big"), "no profile 'big'", "Use one of"),
    asked("a day that is none", ("simulate", "--until", "2026-02-30"), "2026-02-30", "`pilot --help`"),
    asked(
        "a service on every address in the sandbox", ("serve", "--host", "0.0.0.0"), "host", "loopback only"
    ),
    asked(
        "a service on a host of somebody else", ("serve", "--host", "127.0.0.300"), "loopback", "127.0.0.1"
    ),
    asked("a decision about no record", ("decide",), "pilot decide: a decision needs one record", "Name"),
    asked(
        "a decision about a file that is not there", ("decide", "no.json"), "no.json: cannot be read", "Name"
    ),
    asked(
        "a decision about an example before any run", ("decide", "--example", "1"), "no records yet", "Run"
    ),
    Mistake(
        "a decision about a file that is no JSON",
        ("decide", "record.json"),
        ("record.json: not JSON", "Write one JSON object"),
        wrote("record.json", "{'invoice_id': 1}"),
    ),
    Mistake(
        "a decision about a list of records",
        ("decide", "record.json"),
        ("record.json: not a JSON object", "Write one JSON object"),
        wrote("record.json", "[{}]"),
    ),
    Mistake(
        "a decision without a service",
        ("decide", "record.json", "--url", "http://127.0.0.1:1"),
        ("http://127.0.0.1:1: no service answers", "Start it with `pilot serve`"),
        wrote("record.json", "{}"),
    ),
    Mistake(
        "a folder that is no pilot",
        ("--root", "src", "status"),
        ("src/pilot.toml: the file is missing", "Change into the pilot's folder"),
    ),
)
