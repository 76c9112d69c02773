"""What `make manifest` writes in the template's own repository: ``python -m pilot_template.hooks.template``.

The list of the standard's files, and the page of the checks.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from pilot_template.hooks.checks import CHECKS
from pilot_template.hooks.manifest import MANIFEST, digest
from pilot_template.update import ownership

PAGE = "docs/reference/checks.md"
HEAD = """\
# Checks

The conventions of a pilot. They only read: the pilot's files, and what git knows of them; nothing of the
pilot's is run. In a pilot they are hooks (`make hooks`, `make lint`), taken from the template's repository at
the pilot's version. By hand, with the template installed: `pilot-checks [--root DIR] [--json] [ID ...]`.

An id is `PT` and three digits: 1xx what is the standard's, 2xx governance, 3xx what lies in git, 4xx the
pipeline. An id is never changed and never given to another check.

A check passes, fails, is skipped (there is nothing yet that it could look at) or is unknown (it could not
look, which is never a pass). An error that fails ends with exit code 1, a check that could not look with 3,
wrong use with 2; a warning is told and changes nothing.

<!-- Made by `make manifest` from hooks/; edits are lost. -->
"""


def page() -> str:
    """The page."""
    parts = [HEAD]
    for check in CHECKS:
        parts += [
            f"## {check.id} {check.name}\n",
            f"{check.says} {check.why}\n",
            f"Looks at: {check.looks_at}. Severity: {check.severity}.\n",
        ]
    return "\n".join(parts)


def standards(repository: Path) -> list[str]:
    """The standard's files that carry no answers: what Copier copies as it is and the team does not own."""
    owned = ownership.in_folder(repository)
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=repository / "template",
        capture_output=True,
        check=True,
    )
    names = sorted({name for name in listed.stdout.decode("utf-8").split("\0") if name})
    return [
        name
        for name in names
        if (repository / "template" / name).is_file()
        and not name.endswith(".jinja")
        and name != MANIFEST
        and not owned.is_teams(name)
    ]


def build(repository: Path) -> str:
    """The list for the template in this repository."""
    lines = [
        f"{digest((repository / 'template' / name).read_bytes())}  {name}\n" for name in standards(repository)
    ]
    return "".join(lines)


def main() -> None:
    """Write both."""
    here = Path(__file__).resolve().parents[1]
    for name, text in ((f"template/{MANIFEST}", build(here)), (PAGE, page())):
        (here / name).write_text(text, encoding="utf-8", newline="\n")
        sys.stdout.write(f"{name}: written\n")


if __name__ == "__main__":
    main()
