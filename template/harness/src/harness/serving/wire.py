"""Messages between the service and a model's process: a length and JSON, within a time and a size.

Never pickle: what comes from the model's process is data of somebody who may be wrong, and pickle would let
it run code here.
"""

from __future__ import annotations

import json
import socket
import struct
import time
from collections.abc import Mapping
from datetime import date
from typing import Any

from harness.encoding import Encoder

MOST_BYTES = 1 << 22
_LENGTH = struct.Struct("!I")


class Late(Exception):
    """The other end took longer than there was time."""


class Ended(Exception):
    """The other end is gone."""


class Malformed(Exception):
    """The other end sent something that is no message."""


def encode(message: Mapping[str, Any]) -> bytes:
    """A message as it is sent: dates as ISO 8601, which the contract's field types make dates again.

    Raises:
        ValueError: It is larger than a message may be, or holds NaN or infinity.
        TypeError: It holds something that JSON and a record have no form for.
    """
    text = _encode(message)
    if len(text) > MOST_BYTES:
        raise ValueError(f"a message of {len(text)} bytes")
    return _LENGTH.pack(len(text)) + text


def send(channel: socket.socket, message: bytes | memoryview, deadline: float | None) -> None:
    """Send an encoded message.

    Args:
        channel: The connection.
        message: What ``encode`` gave.
        deadline: The monotonic time at which to give up; None never gives up.

    Raises:
        Late: The other end did not take it in time.
        Ended: There is no other end any more.
    """
    try:
        channel.settimeout(_remaining(deadline))
        channel.sendall(message)
    except TimeoutError:
        raise Late from None
    except OSError as error:
        raise Ended(error.strerror) from None


def receive(channel: socket.socket, deadline: float | None) -> dict[str, Any]:
    """The next message.

    Raises:
        Late: It was not complete in time.
        Ended: There is no other end any more.
        Malformed: It is too large, no JSON, or no object.
    """
    (length,) = _LENGTH.unpack(exactly(channel, _LENGTH.size, deadline))
    if length > MOST_BYTES:
        raise Malformed(f"a message of {length} bytes")
    try:
        message = json.loads(exactly(channel, length, deadline), parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        # Without what it says, which quotes the message.
        raise Malformed(f"no JSON ({type(error).__name__})") from None
    if not isinstance(message, dict):
        raise Malformed(f"a {type(message).__name__} and no object")
    return message


def exactly(channel: socket.socket, count: int, deadline: float | None) -> bytes:
    """The next ``count`` bytes, which are no message of their own.

    Raises:
        Late: They were not there in time.
        Ended: There is no other end any more.
    """
    parts = bytearray()
    while len(parts) < count:
        try:
            channel.settimeout(_remaining(deadline))
            part = channel.recv(count - len(parts))
        except TimeoutError:
            raise Late from None
        except OSError as error:
            raise Ended(error.strerror) from None
        if not part:
            raise Ended
        parts += part
    return bytes(parts)


def _remaining(deadline: float | None) -> float | None:
    if deadline is None:
        return None
    left = deadline - time.monotonic()
    if left <= 0:  # a socket takes 0 for "do not wait", and says so by another error
        raise TimeoutError
    return left


def _date(value: object) -> str:
    if isinstance(value, date):
        return value.isoformat()
    raise TypeError(f"a {type(value).__name__} in a record")


_encode = Encoder(json.JSONEncoder(allow_nan=False, separators=(",", ":"), default=_date))


def _no_constant(name: str) -> object:
    raise ValueError(name)
