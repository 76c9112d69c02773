"""What a model's process may take of the machine."""

from __future__ import annotations

import os
import resource
from dataclasses import dataclass

from harness.serving.confined import confine


@dataclass(frozen=True)
class Limits:
    """Limits of one process. Whatever they are, it may neither read the service's memory nor end the service.

    Attributes:
        memory_bytes: Bytes of address space, what it shares with others included; None for no limit.
        may_write: Whether it may change files: write, make, shorten, delete. Without the right that is an
            OSError; connections work.
        nice: How far it stands back behind other processes for the processor, 0 to 19.
    """

    memory_bytes: int | None = None
    may_write: bool = True
    nice: int = 0

    def apply(self) -> None:
        """Put the limits on this process, for good.

        Raises:
            OSError: The system refuses.
            ValueError: The system's own limit is lower.
        """
        if self.memory_bytes is not None:
            resource.setrlimit(resource.RLIMIT_AS, (self.memory_bytes, self.memory_bytes))
        if not self.may_write:
            # Where Landlock is not there, this is all; and it stops what was open before.
            # Python ignores the signal that comes with it, so a write fails with EFBIG.
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
        if self.nice:
            os.nice(self.nice)
        confine(may_write=self.may_write)
