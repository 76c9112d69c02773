"""`pilot serve`: the decision service."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from harness.cli import context


def register(app: typer.Typer) -> None:
    """Add this group's verbs."""
    app.command()(serve)


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on.")] = None,
    port: Annotated[
        int | None, typer.Option(help="The port to listen on; 0 lets the system choose.", min=0, max=65535)
    ] = None,
) -> None:
    """Answer requests for decisions until interrupted."""
    from harness.serving.server import serve as listen

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    settings = context.settings()
    listen(
        settings,
        host=host if host is not None else settings.serving.host,
        port=port if port is not None else settings.serving.port,
    )
