"""`pilot decide`: ask the running service about one record, or decide many records at once."""

from __future__ import annotations

import json
import os
import re
import ssl
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from harness.address import unanswered
from harness.batch import Wanted
from harness.cli import context
from harness.errors import CheckFailed, PilotError
from harness.progress import working
from harness.settings import Settings

TOKEN = "PILOT_TOKEN"


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(decide)


def decide(
    record: Annotated[str, typer.Argument(help="A JSON file with one record; - reads standard input.")] = "",
    example: Annotated[
        int | None,
        typer.Option(help="Take the n-th record held back from training instead of a file.", min=1),
    ] = None,
    url: Annotated[str, typer.Option(help="The service's address; by default that of pilot.toml.")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="Print the answer as JSON.")] = False,
    batch: Annotated[
        str,
        typer.Option(
            help="Decide all records of a .parquet or .csv file or folder; `records`: the pilot's own."
        ),
    ] = "",
    to: Annotated[
        Path | None, typer.Option(help="With --batch: the folder to write the decisions to.")
    ] = None,
    batch_id: Annotated[
        str, typer.Option("--id", help="With --batch: its name; by default made of the input.")
    ] = "",
    reasons: Annotated[
        int | None,
        typer.Option(help="With --batch: how many reasons the model gives; 0 is fastest.", min=0, max=20),
    ] = None,
    deliver: Annotated[
        bool, typer.Option("--deliver", help="With --batch: deliver each decision to [downstream] as well.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="With --batch: say how many records, and who would decide them.")
    ] = False,
) -> None:
    """Ask the running service for a decision on one record, with a token from PILOT_TOKEN; or decide a batch.

    A batch needs no service. Run again, it goes on where it was interrupted. Exit code 1: records were set
    aside beyond [data] max_bad_share, or the fallback could not decide some.
    """
    settings = context.settings()
    if batch:
        if record or example is not None or url:
            mend = "Give --batch INPUT without a record, --example or --url: no service is asked."
            raise PilotError("a batch and a record at once", where="pilot decide", mend=mend)
        wanted = Wanted(batch, batch_id, to, deliver, reasons)
        raise typer.Exit(
            _rehearse(settings, wanted, as_json) if dry_run else _batch(settings, wanted, as_json)
        )
    if to is not None or batch_id or reasons is not None or deliver or dry_run:
        raise PilotError(
            "--to, --id, --reasons, --deliver and --dry-run are a batch's",
            where="pilot decide",
            mend="Name what is to be decided: --batch INPUT.",
        )
    if (example is None) == (record == ""):
        raise PilotError(
            "a decision needs one record",
            where="pilot decide",
            mend="Name a JSON file, -, or --example N; of many records, --batch INPUT.",
        )
    asked = _read(record) if example is None else held_back(settings, example)
    from harness.serving.tls import trusting

    where = url or address(settings)
    answer = ask(where, asked, trusted=trusting(settings, where))
    if as_json:
        context.say_json(answer)
        return
    by = "model" if answer["served_by"] == "model" else f"fallback ({answer['why']})"
    score = "" if answer["score"] is None else f", score {answer['score']:.3f}"
    context.say(f"{answer['decision']}   by {by}{score}")
    for reason in answer["reasons"]:
        effect = "" if reason["effect"] is None else f" ({reason['effect']:+.3f})"
        context.say(f"  because {reason['feature']} = {_short(reason['value'])}{effect}")
    context.say(f"  decision {answer['decision_id']}, recorded")


def _batch(settings: Settings, wanted: Wanted, as_json: bool) -> int:
    from harness.batch.run import run

    with working("Deciding") as report:
        told = run(settings, wanted, report)
    if as_json:
        context.say_json(told.document())
    else:
        kept = f", {told.kept:,} of them from an earlier run" if told.kept else ""
        chunks = "1 chunk" if told.chunks == 1 else f"{told.chunks:,} chunks"
        context.say(
            f"batch {told.batch_id}: {told.decided:,} of {told.rows:,} records decided, in {chunks}{kept}"
        )
        for (served_by, why), count in sorted(told.counts.items(), key=lambda each: -each[1]):
            context.say(f"  {count:>12,}  by {served_by} ({why})")
        _say_aside(told.set_aside, told.broken, told.malformed)
        if told.decided_now:
            context.say(f"  {told.decided_now / told.seconds:,.0f} records a second")
        context.say(f"  on record in {told.folder}")
        if told.files:
            context.say(f"  handed over in {wanted.to}, announced by {Path(told.files[-1]).name}")
    return _judged(settings, told.rows, told.set_aside, told.broken, told.malformed)


def _rehearse(settings: Settings, wanted: Wanted, as_json: bool) -> int:
    from harness.batch.run import rehearse

    with working("Looking") as report:
        told = rehearse(settings, wanted, report)
    if as_json:
        context.say_json(told)
    else:
        context.say(f"batch {told['batch_id']}: {told['rows']:,} records; nothing was decided")
        for each in sorted(told["would_decide"], key=lambda one: -one["count"]):
            model = f", model {each['model'][:12]}" if each["model"] else ""
            context.say(f"  {each['count']:>12,}  by the {each['by']} ({each['why']}{model})")
        _say_aside(told["set_aside"], told["broken"], told["malformed"])
    return _judged(settings, told["rows"], told["set_aside"], told["broken"], told["malformed"])


def _say_aside(aside: int, broken: Mapping[str, int], malformed: int) -> None:
    if aside:
        rules = ", ".join(
            f"{rule} {count:,}" for rule, count in sorted(broken.items(), key=lambda one: -one[1])
        )
        context.say(f"  {aside:>12,}  set aside ({rules})")
    if malformed:
        context.say(f"  {malformed:>12,}  lines with too many or too few values")


def _judged(settings: Settings, rows: int, aside: int, broken: Mapping[str, int], malformed: int) -> int:
    allowed = settings.data.max_bad_share * max(rows + malformed, 1)
    return int(aside + malformed > allowed or "fallback_failed" in broken)


def address(settings: Settings) -> str:
    """Where the service of pilot.toml listens."""
    host, tls = settings.serving.host, settings.serving.tls_certificate is not None
    return f"http{'s' if tls else ''}://{f'[{host}]' if ':' in host else host}:{settings.serving.port}"


def ask(url: str, record: dict[str, Any], *, trusted: ssl.SSLContext | bool = True) -> dict[str, Any]:
    """Post one record to a service.

    Args:
        url: The service's address.
        record: The record.
        trusted: What its certificate is held against; True for the usual authorities.

    Raises:
        PilotError: Nothing answers there, or it does not decide.
        CheckFailed: The record breaks the contract.
    """
    import httpx

    try:
        # Loopback or the team's own network: a proxy from the environment would only be in the way.
        with httpx.Client(trust_env=False, timeout=30, verify=trusted) as client:
            answer = client.post(
                f"{url}/decide",
                content=json.dumps(record, default=str).encode(),
                headers={"content-type": "application/json", **_credentials()},
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        mend = "Start it with `pilot serve`, or name it with --url."
        raise unanswered(url, error, mend=mend) from error
    try:
        content = answer.json()
        if answer.status_code == 200 and {"decision_id", "decision", "served_by"} <= set(content):
            found: dict[str, Any] = content
            return found
        if answer.status_code == 422:
            first = content["fields"][0]
            raise CheckFailed(
                f"the record breaks the contract: {first['message']}",
                where=first["field"],
                mend="Correct the record.",
            )
        _let_in(answer.status_code, content, url)
        refused = bool(content.get("error"))
    except (ValueError, TypeError, LookupError, AttributeError):
        refused = False
    if not refused:
        raise PilotError(
            f"what answers there is no decision service ({answer.status_code})",
            where=url,
            mend="Start this pilot's with `pilot serve`, and name its address with --url.",
        )
    said = str(content.get("detail") or content["error"]).rstrip(".")
    mend = "`pilot status` and the service's log say more."
    if answer.status_code == 429:
        mend = "Wait for so long, or raise [serving] rate_per_s and burst in its pilot.toml."
    raise PilotError(f"no decision was made ({answer.status_code}): {said}", where=url, mend=mend)


def _credentials() -> dict[str, str]:
    token = os.environ.get(TOKEN, "").strip()
    if not token:
        return {}
    if not re.fullmatch(r"[!-~]+", token):
        raise PilotError(
            "not a token: it holds a blank, or a letter that no token has",
            where=TOKEN,
            mend="Set it to what `pilot token issue` showed, and nothing else.",
        )
    return {"Authorization": f"Bearer {token}"}


def _let_in(status: int, content: dict[str, Any], url: str) -> None:
    if status == 401 and content.get("error") == "unauthenticated":
        given = f"the token in {TOKEN} is not valid (any more)" if _credentials() else "a token is needed"
        raise PilotError(
            f"{given}, so nothing was decided",
            where=url,
            mend=f"Make one with `pilot token issue NAME --scope decide`, and set {TOKEN} to it.",
        )
    if status == 403 and content.get("error") == "forbidden":
        raise PilotError(
            f"the token in {TOKEN} may not ask for decisions",
            where=url,
            mend="Make one that may: `pilot token issue NAME --scope decide`.",
        )


def held_back(settings: Settings, number: int) -> dict[str, Any]:
    """The n-th record, from 1, that the pipeline held back for the test.

    Raises:
        PilotError: The pipeline has not run, or there are fewer.
    """
    import polars as pl

    from harness import pilot
    from harness.pipeline import layout

    file = settings.path(layout.TEST_RECORDS)
    if not file.exists():
        raise PilotError(
            "there are no records yet", where=str(layout.TEST_RECORDS), mend="Run `pilot run` first."
        )
    names = [field.name for field in pilot.load_contract(settings.pilot.package).fields]
    found = pl.scan_parquet(file).select(names).slice(number - 1, 1).collect()
    if found.height == 0:
        raise PilotError(
            f"there are fewer than {number} records", where="--example", mend="Use a smaller number."
        )
    return found.row(0, named=True)


def _read(source: str) -> dict[str, Any]:
    try:
        text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
        record = json.loads(text)
    except OSError as error:
        raise PilotError(
            f"cannot be read: {error.strerror}", where=source, mend="Name a readable file."
        ) from error
    except ValueError as error:
        raise PilotError(f"not JSON: {error}", where=source, mend="Write one JSON object.") from error
    if not isinstance(record, dict):
        raise PilotError("not a JSON object", where=source, mend="Write one JSON object.")
    return record


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
