"""Where the template is, as git takes it: Copier keeps shorter forms in the answers file."""

from __future__ import annotations

import re
from pathlib import Path

SHORT = (
    (re.compile(r"^gh:/?(.*?)(\.git)?$"), r"https://github.com/\1.git"),
    (re.compile(r"^gl:/?(.*?)(\.git)?$"), r"https://gitlab.com/\1.git"),
    (re.compile(r"^git\+"), ""),
)


def address(source: str) -> str:
    """The address for `git clone`, of what Copier keeps as `_src_path`."""
    for pattern, plain in SHORT:
        source = pattern.sub(plain, source)
    return str(Path(source).expanduser()) if source.startswith("~") else source
