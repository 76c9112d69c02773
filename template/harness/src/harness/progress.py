"""What a person sees while something takes longer than two seconds.

On a terminal a bar or a spinner with the elapsed time; elsewhere one line at the start and one at the end,
so that a log stays readable.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

Report = Callable[[str, float], None]

console = Console(stderr=True, highlight=False)


@contextmanager
def working(title: str) -> Iterator[Report]:
    """Show that work is under way.

    Yields:
        A function that takes what is being done and how much of the whole is done, 0 to 1.
    """
    started = time.monotonic()
    if not console.is_terminal:
        console.print(f"  {title} …")
        yield lambda _doing, _share: None
        console.print(f"  {title}: done in {time.monotonic() - started:.1f} s")
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[doing]}", style="dim"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(title, total=None, doing="")

        def report(doing: str, share: float) -> None:
            progress.update(task, total=1.0, completed=share, doing=doing)

        yield report
    console.print(f"  {title}: done in {time.monotonic() - started:.1f} s")
