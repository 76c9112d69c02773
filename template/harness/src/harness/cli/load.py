"""`pilot load`: whether the service keeps what pilot.toml promises, at the volume that it states."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from harness.cli import context
from harness.cli.decide import TOKEN
from harness.errors import PilotError
from harness.files import check_writable, whole_file

if TYPE_CHECKING:
    from harness.readiness.loaded import LoadTest, Step

EXIT_CODES = {"met": 0, "missed": 1, "inconclusive": 3}


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(load)


def load(
    seconds: Annotated[
        float, typer.Option(help="For how long the stated volume is held.", min=1, max=600)
    ] = (30.0),
    step: Annotated[
        float, typer.Option(help="For how long each other rate is held; 0 tries no other.", min=0, max=60)
    ] = 4.0,
    highest: Annotated[
        float, typer.Option(help="No more requests a second than this are tried.", min=1, max=20_000)
    ] = 20_000,
    arrivals: Annotated[
        Literal["poisson", "constant"], typer.Option(help="At random times, or at equal distances.")
    ] = "poisson",
    seed: Annotated[int, typer.Option(help="Of the random times.", min=0)] = 1,
    clients: Annotated[int, typer.Option(help="How many processes ask.", min=1, max=16)] = 1,
    workers: Annotated[
        int | None,
        typer.Option(help="How many processes answer; else as in pilot.toml.", min=1, max=64),
    ] = None,
    url: Annotated[
        str, typer.Option(help="Ask a service that runs already; what comes of it is no evidence.")
    ] = "",
    i_may_load: Annotated[
        str,
        typer.Option(help="With --url: the host, where it is another machine or decides in earnest."),
    ] = "",
    html: Annotated[Path | None, typer.Option(help="Write a page with plots into this file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was measured as JSON.")] = False,
) -> None:
    """Hold a service to the SLO of pilot.toml [slo], in a scratch copy of this pilot, and find where it ends.

    Exit 0 when the SLO held at the stated volume, 1 when it did not, 3 when the client itself had too much to
    do. What was measured in the scratch copy is kept in evidence/load.json.
    """
    from harness.drills import slo
    from harness.progress import working

    settings = context.settings()
    plan = slo.Plan(
        seconds=seconds,
        step_s=step,
        highest=highest,
        arrivals=arrivals,
        seed=seed,
        clients=clients,
        workers=workers or settings.serving.workers,
    )
    slo.bounded(plan)
    if url and workers is not None:
        raise PilotError(
            "a service that runs already has its workers",
            where="--workers",
            mend="Leave --workers out, or --url.",
        )
    if html is not None:
        _writable(html)
    with working("load") as report:
        if url:
            token = os.environ.get(TOKEN, "").strip()
            found = slo.at(settings, plan, url, token=token, consent=i_may_load, report=report)
        else:
            found = slo.in_scratch_copy(settings, plan, report)
    if html is not None:
        from harness.load.page import page

        with whole_file(html) as beside:
            beside.write_text(page(settings.pilot.name, found), encoding="utf-8")
    if as_json:
        context.say_json(found.model_dump(mode="json"))
    else:
        _tell(found, html)
    raise typer.Exit(EXIT_CODES[found.verdict])


def _writable(html: Path) -> None:
    """Say it now, and not when everything has been measured."""
    try:
        if html.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        check_writable(html.parent)
    except OSError as error:
        raise PilotError(
            f"no page can be written there: {error.strerror}",
            where=f"--html {html}",
            mend="Name a file in a folder that you may write.",
        ) from error


def _tell(found: LoadTest, html: Path | None) -> None:
    from harness.load.page import in_order, knee
    from harness.readiness import loaded

    context.say(
        "   rate/s      p50      p95      p99      max ms   decided/s  fallback"
        "   errors  CPU ms     MB  late ms"
    )
    for each in in_order(found):
        context.say(_line(each, "*" if each == found.volume else " "))
    for each in in_order(found):
        for why, count in [*each.fallbacks.items(), *each.errors.items()]:
            context.say_safely(f"    at {each.rate_per_s:,.0f}: {count:,} {why}")
    context.say(f"  {knee(found)}")
    kept = f" Kept in {loaded.FILE.as_posix()}." if found.trees else " No evidence: its code is not known."
    at = f"at {found.volume.rate_per_s:,g} a second"
    if found.verdict == "met":
        context.say(f"MET: the SLO of pilot.toml held {at}.{kept}")
    else:
        word = "MISSED" if found.verdict == "missed" else "INCONCLUSIVE"
        context.say_safely(f"{word} {at}: {'; '.join(found.why)}.{kept}")
    if html is not None:
        context.say(f"  page: {html}")


def _line(step: Step, mark: str) -> str:
    waited = "".join(f"{value:9,.1f}" for value in (step.p50_ms, step.p95_ms, step.p99_ms, step.max_ms))
    cpu = "      –" if step.cpu_ms_per_decision is None else f"{step.cpu_ms_per_decision:7.1f}"
    memory = "      –" if step.memory_mb is None else f"{step.memory_mb:7,.0f}"
    return (
        f"{mark} {step.rate_per_s:7,.0f}{waited}   {step.throughput_per_s:9,.0f}  {step.fallback_share:8.2%}"
        f"  {step.error_share:7.2%} {cpu}{memory}  {step.client_late_p99_ms:7.1f}"
    )
