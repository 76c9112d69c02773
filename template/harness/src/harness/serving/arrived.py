"""When a request arrived at this machine, and not when somebody here came to look at it.

Under more load than a process can take, a request stands in the system's buffer, and its connection in the
queue of those that nobody has taken up, for longer than all that follows takes. No clock that starts with the
first look counts that; the system knows it of each connection.
"""

from __future__ import annotations

import socket
import struct
import time
from typing import Any

# In a request's state, as ASGI calls it: when its last bytes arrived, on the clock that only grows.
ARRIVED = "harness.arrived"
# Of Linux's tcp_info: tcpi_last_data_recv, in milliseconds.
_SINCE = struct.Struct("=52xI")
# Nobody's request is older: what says so has been misread.
MOST_S = 3600.0
# The system counts in ticks of its clock, up to so long, and would call every other request a tick old.
TICK_S = 0.01


def arrived(connection: Any) -> float | None:
    """When the last bytes of a connection arrived, on the clock that only grows.

    Args:
        connection: The socket.

    Returns:
        The moment; None where the system does not tell.
    """
    now = time.monotonic()
    try:
        (since_ms,) = _SINCE.unpack(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _SINCE.size))
    except (AttributeError, OSError, struct.error):
        return None
    since_s = since_ms / 1000
    return now - max(0.0, since_s - TICK_S) if since_s < MOST_S else None
