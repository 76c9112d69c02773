"""What a caller may send as JSON: RFC 8259 in UTF-8, each name once, within a size, a depth and many names.

Python's own parser takes more: UTF-16, a byte order mark, NaN, and of two values under one name the last,
where a proxy in front may have looked at the first. What is refused is told without a value that was sent.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

import orjson
from fastapi import Request
from fastapi.exceptions import RequestValidationError

from harness.serving import whole

MOST_DEPTH = 32
MOST_NAMES = 1_000
MOST_EXACT = 2.0**53
_JSON = re.compile(rb"application/(?:[a-z0-9.+-]+\+)?json[ \t]*(?:;(.*))?", re.IGNORECASE | re.DOTALL)
_UTF_8 = re.compile(rb"""[ \t]*charset[ \t]*=[ \t]*"?utf-?8"?[ \t]*;?[ \t]*""", re.IGNORECASE)


class Unwelcome(Exception):
    """A request that is refused before anything in it was looked at.

    Args:
        status: The answer's status.
        code: What programs go by.
        detail: What people read.
    """

    def __init__(self, status: int, code: str, detail: str) -> None:
        self.status = status
        self.code = code
        self.detail = detail
        super().__init__(detail)


class Strict(Request):
    """A request whose body was read by ``strictly``; it gives what was found there."""

    document: Any = None

    async def json(self) -> Any:
        """The body's document."""
        return self.document


async def strictly(request: Request, most_bytes: int) -> Strict:
    """Read a request's body, as far as it may go, and parse it.

    Args:
        request: The request, whose body nobody has begun to read.
        most_bytes: How long the body may be.

    Raises:
        Unwelcome: The body is too long, or said to be something else than JSON in UTF-8.
        RequestValidationError: It is no JSON, or more of it than is taken.
    """
    _welcome(request, most_bytes)
    there = whole.body(request.receive)
    parts, length, more = [there or b""], len(there or b""), there is None
    if length > most_bytes:
        raise _too_large(most_bytes)
    while more:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise Unwelcome(400, "incomplete", "The body ended before it was complete.")
        parts.append(message.get("body", b""))
        length += len(parts[-1])
        if length > most_bytes:
            raise _too_large(most_bytes)
        more = message.get("more_body", False)
    body = b"".join(parts)
    read = request if isinstance(request, Strict) else Strict(request.scope, request.receive)
    read._body = body  # what Request.body() gives, once it was read
    if body:
        read.document = parse(body)
    return read


def parse(body: bytes) -> Any:
    """The document in a body.

    Raises:
        RequestValidationError: It is no JSON in UTF-8, or deeper or wider than is taken.
    """
    plain = _plain(body)
    if plain is not None:
        return plain
    try:
        text = body.decode()
    except UnicodeDecodeError:
        raise _malformed("it is not UTF-8") from None
    if text[:1] == "\ufeff":
        raise _malformed("it begins with a byte order mark")
    try:
        found = _decoded(_DECODER, text)
    except _Constant:
        # Only now is it worth looking for where it stands.
        found = _decoded(_MARKING, text)
        raise _named(found) from None
    # Each level has a bracket: with few of them there is nothing to measure.
    if body.count(b"[") + body.count(b"{") > MOST_DEPTH:
        _measured(found)
    return found


def _plain(body: bytes) -> dict[str, Any] | None:
    """An object of texts, numbers and truths, read by orjson; None for all else, however well-formed.

    What orjson refuses is read once more by Python's own parser, which says why, or takes it.
    """
    try:
        found = orjson.loads(body)
    except orjson.JSONDecodeError:
        return None
    if type(found) is not dict or len(found) > MOST_NAMES:
        return None
    texts = 0
    for value in found.values():
        kind = type(value)
        if kind is str:
            texts += 1
        elif kind is float:
            # It takes an integer that has no place in 64 bits for such a number.
            if not -MOST_EXACT < value < MOST_EXACT:
                return None
        elif kind is not int and kind is not bool and value is not None:
            return None
    # Each name and each text has two quotes, and so have those that it took a later one for.
    return found if body.count(b'"') == 2 * (len(found) + texts) else None


def _decoded(decoder: json.JSONDecoder, text: str) -> Any:
    try:
        return decoder.decode(text)
    except json.JSONDecodeError as error:
        raise _malformed(error.msg) from None
    except RecursionError:
        raise _too_deep() from None
    except ValueError:  # Python refuses to read integers of thousands of digits
        raise _malformed("a number has too many digits") from None


def _welcome(request: Request, most_bytes: int) -> None:
    kind = length = None
    for name, value in request.scope["headers"]:
        if name == b"content-type":
            if kind is not None:
                raise Unwelcome(400, "ambiguous", "Send one header content-type.")
            kind = value
        elif name == b"content-length":
            length = value
        elif name == b"content-encoding" and value.strip().lower() != b"identity":
            raise Unwelcome(415, "not_json", "Send the JSON as it is, without a content-encoding.")
    if wrong := _wrong(kind):
        raise Unwelcome(415, "not_json", wrong)
    if length is not None and length.isdigit() and int(length[:20]) > most_bytes:
        raise _too_large(most_bytes)


@lru_cache(maxsize=64)
def _wrong(kind: bytes | None) -> str:
    """What is to be done about a content type; nothing where it is JSON's."""
    found = None if kind is None else _JSON.fullmatch(kind.strip())
    if found is None:
        return "Send JSON, with the header content-type: application/json."
    if found[1] and b"charset" in found[1].lower() and not _UTF_8.fullmatch(found[1]):
        return "Send the JSON in UTF-8, and say no other charset."
    return ""


def _too_large(most_bytes: int) -> Unwelcome:
    return Unwelcome(413, "too_large", f"A body may have {most_bytes:,} bytes here.")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(pairs) > MOST_NAMES:
        raise _malformed(f"an object has more than {MOST_NAMES:,} names")
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in found if names.count(name) > 1)
        raise _refused((twice,), "is given twice")
    return found


class _Constant(Exception):
    """NaN, Infinity or -Infinity, which JSON does not have."""


def _constant(name: str) -> Any:
    raise _Constant(name)


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant)


_MARKING = json.JSONDecoder(object_pairs_hook=_object, parse_constant=lambda _: _Constant)


def _named(found: Any) -> RequestValidationError:
    """The refusal of NaN, Infinity or -Infinity where one stands for a value, by name."""
    path = next(path for path, value in _values(found) if value is _Constant)
    return _refused(path, "must be a number that JSON has: NaN and Infinity are none")


def _measured(found: Any) -> None:
    if any(len(path) + isinstance(value, dict | list) > MOST_DEPTH for path, value in _values(found)):
        raise _too_deep()


def _values(found: Any) -> Iterator[tuple[tuple[str | int, ...], Any]]:
    """Each value of a document with where it stands, without recursion."""
    left: list[tuple[tuple[str | int, ...], Any]] = [((), found)]
    while left:
        path, value = left.pop()
        yield path, value
        if isinstance(value, dict):
            left.extend(((*path, name), each) for name, each in value.items())
        elif isinstance(value, list):
            left.extend(((*path, number), each) for number, each in enumerate(value))


def _too_deep() -> RequestValidationError:
    return _malformed(f"it is nested deeper than {MOST_DEPTH} levels")


def _malformed(why: str) -> RequestValidationError:
    return RequestValidationError(
        [{"type": "json_invalid", "loc": ("body",), "msg": why, "ctx": {"error": why}}]
    )


def _refused(path: tuple[str | int, ...], why: str) -> RequestValidationError:
    return RequestValidationError([{"type": "value_error", "loc": ("body", *path), "msg": why}])
