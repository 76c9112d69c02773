"""How many connections each worker holds, for the others to see: who holds more leaves the next one to them.

Workers listen on one socket, and whoever looks first takes whom it finds. On a machine whose cores are busy
that is whoever happens to run: of 64 callers who came together one of two workers was seen to take 54, 63 and
all 64, and keeps them for as long as they stay. Envoy calls the mend exact connection balance, nginx
`accept_mutex`.
"""

from __future__ import annotations

import math
import os
import time
from multiprocessing.sharedctypes import RawArray

# Enough that a worker which takes another's place finds a free one, though several end without a word.
PLACES_A_WORKER = 4
# Who has not told for so long has ended, or hangs; all others tell every second.
SILENT_S = 3.0
_PID, _AT, _HELD = range(3)


class Balance:
    """What the workers of one service share; a worker gets it when it is started.

    Each writes into its own place and reads those of the others, without a lock: a number that is a moment
    old costs a caller nothing. Two that choose one place at the same moment find out when they tell next.

    Args:
        workers: How many there are.

    Attributes:
        greeted: How many callers this process has taken up who have no connection yet; infinity where it can
            take up nobody, and nobody is to be left to it.
    """

    def __init__(self, workers: int) -> None:
        self._places = PLACES_A_WORKER * workers
        self._told = RawArray("d", 3 * self._places)
        self._left = False
        self.greeted: float = 0

    def tell(self, held: int) -> None:
        """Say how many connections this process holds. To be called at least every second.

        Args:
            held: The connections, without the callers who are being greeted.
        """
        if self._left:
            return
        told, at = self._told, self._place()
        told[at + _PID], told[at + _AT], told[at + _HELD] = os.getpid(), time.monotonic(), held + self.greeted

    def leave(self) -> None:
        """This process takes up nobody any more, and nobody is to be left to it."""
        self._left = True
        self._told[self._place() + _AT] = 0.0

    def fewest(self) -> float:
        """The fewest connections that any of the others holds; infinity without others."""
        return min(self.others(), default=math.inf)

    def others(self) -> list[float]:
        """What each of the others holds that lives and has room for one more."""
        told, mine, since = self._told, os.getpid(), time.monotonic() - SILENT_S
        return [
            held
            for at in range(0, 3 * self._places, 3)
            if told[at + _AT] > since and told[at + _PID] != mine and math.isfinite(held := told[at + _HELD])
        ]

    def _place(self) -> int:
        told, mine = self._told, os.getpid()
        for at in range(0, 3 * self._places, 3):
            if told[at + _PID] == mine:
                return at
        return min(range(0, 3 * self._places, 3), key=lambda at: told[at + _AT])
