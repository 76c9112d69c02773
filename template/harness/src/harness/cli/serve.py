"""`pilot serve`: the decision service."""

from __future__ import annotations

from typing import Annotated

import typer

from harness.cli import context
from harness.serving_settings import MOST_WORKERS


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on; 0 lets the system choose.", min=0, max=65535)
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="How many processes answer; each holds the models in memory.", min=1, max=MOST_WORKERS
        ),
    ] = None,
) -> None:
    """Answer requests for decisions until interrupted."""
    settings = context.settings()
    several = workers if workers is not None else settings.serving.workers
    if several > 1:  # before this process imports the same: there are cores for both
        from harness.serving.forking import begin_importing

        begin_importing()
    from harness.serving import logs

    logs.set_up(debug=context.debug(), form=settings.serving.log_format)
    if several > 1:
        from harness.serving import zygote

        zygote.begin(settings)
    from harness.serving.running import serve as listen

    listen(
        settings,
        host=host if host is not None else settings.serving.host,
        port=port if port is not None else settings.serving.port,
        workers=several,
        debug=context.debug(),
    )
