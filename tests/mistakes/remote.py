"""Mistakes with a flag service and with the team's own flags."""

from __future__ import annotations

from mistakes.planted import Mistake, Pilot, appended

ONCE = ("sync", "once")
UNLEASH = '\n[remote]\nsource = "unleash"\nurl = "http://127.0.0.1:1"\n'
TABLE = '\n[remote]\nsource = "postgres"\nurl = "postgresql://127.0.0.1:1/control"\n'
FLAG = '\n[flags.tone]\ndescription = "How it speaks"\non = "warm"\noff = "plain"\n'


def damaged_flags(pilot: Pilot) -> None:
    appended("pilot.toml", FLAG)(pilot)
    pilot.works("flag", "set", "tone", "--percent", "10", "--reason", "try it")
    file = pilot.root / "var" / "control" / "flags.json"
    file.write_text(file.read_text(encoding="utf-8").replace("10", "90"), encoding="utf-8")


MISTAKES = (
    Mistake(
        "syncing with no flag service named",
        ONCE,
        ("pilot.toml [remote]: no flag service is named", "Write the table [remote]"),
    ),
    Mistake(
        "a flag service that there is not",
        ONCE,
        ("pilot.toml [remote]: 'source'", "'unleash' or 'postgres'"),
        appended("pilot.toml", UNLEASH.replace("unleash", "flagd")),
    ),
    Mistake(
        "an address of Unleash without http",
        ONCE,
        ("pilot.toml [remote]: 'url'", "write http://host or https://host"),
        appended("pilot.toml", UNLEASH.replace("http://", "")),
    ),
    Mistake(
        "a flag service's token in pilot.toml",
        ONCE,
        ("pilot.toml [remote] token: a secret does not belong into a file", "set PILOT_REMOTE__TOKEN"),
        appended("pilot.toml", UNLEASH + 'token = "default:production.0123456789"\n'),
    ),
    Mistake(
        "a control table's password in pilot.toml",
        ONCE,
        ("pilot.toml [remote] url: a password does not belong into a file", "set PILOT_REMOTE__URL"),
        appended("pilot.toml", TABLE.replace("127.0.0.1", "me:hunter2@127.0.0.1")),
    ),
    Mistake(
        "an answer that is too old before the next one comes",
        ONCE,
        ("pilot.toml [remote]: 'max_stale_s'", "at least twice every_s"),
        appended("pilot.toml", UNLEASH + "every_s = 60\nmax_stale_s = 90\n"),
    ),
    Mistake(
        "Unleash is asked without a token",
        ONCE,
        ("PILOT_REMOTE__TOKEN: there is no token", "Set it to a backend token"),
        appended("pilot.toml", UNLEASH),
        code=1,
    ),
    Mistake(
        "the flag service does not run",
        ONCE,
        ("postgres postgresql://127.0.0.1:1/control: it cannot be asked", "See whether the database runs"),
        appended("pilot.toml", TABLE),
        code=3,
    ),
    Mistake(
        "a control table is to be made in Unleash",
        ("sync", "init"),
        ("only a control table is made by this verb", "one gradual rollout, groupId late_payment"),
        appended("pilot.toml", UNLEASH),
    ),
    Mistake(
        "a flag that is not declared is set",
        ("flag", "set", "tune", "--percent", "10", "--reason", "try it"),
        ("pilot.toml [flags]: there is no flag 'tune'", "Use one of tone"),
        appended("pilot.toml", FLAG),
    ),
    Mistake(
        "a flag is set without a reason",
        ("flag", "set", "tone", "--percent", "10", "--reason", " "),
        ("--reason: a reason is needed", "Say in a few words why"),
        appended("pilot.toml", FLAG),
    ),
    Mistake(
        "a flag whose two values are unlike",
        ("flag", "list"),
        ("pilot.toml [flags.tone]: 'off': of another type than on (bool, not str)", "Correct it"),
        appended("pilot.toml", FLAG.replace('"plain"', "false")),
    ),
    Mistake(
        "a flag with the name of the harness's own",
        ("flag", "list"),
        ("pilot.toml: 'flags': 'model_enabled' is the harness's own flag", "choose another name"),
        appended("pilot.toml", FLAG.replace("tone", "model_enabled")),
    ),
    Mistake(
        "flags.json is edited by hand",
        ("flag", "list"),
        ("the flags cannot be trusted", "the checksum does not fit", "Restore the file from a backup"),
        damaged_flags,
    ),
)
