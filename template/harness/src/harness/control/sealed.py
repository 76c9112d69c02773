"""JSON files with a checksum over themselves: what is read is what was written, or an error.

The checksum finds accidents; file permissions stop people.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

M = TypeVar("M", bound=BaseModel)
SEAL = "sha256"


class Damaged(ValueError):
    """The bytes are not what was written, or say what cannot be."""


def seal(document: dict[str, Any]) -> bytes:
    """The file's bytes, with the checksum as a further key."""
    sealed = {**document, SEAL: checksum(document)}
    return json.dumps(sealed, indent=2, ensure_ascii=False).encode() + b"\n"


def unseal(text: bytes, model: type[M], *, where: str) -> M:
    """Read what ``seal`` wrote.

    Args:
        text: The file's bytes.
        model: What it has to be; it declares a ``schema_version``.
        where: The file, for the error.

    Raises:
        Damaged: Not JSON, a wrong checksum, an unknown layout, or a value that cannot be.
    """
    try:
        document = json.loads(text)
        if not isinstance(document, dict):
            raise Damaged(f"{where}: not a JSON object")
        stated = document.pop(SEAL, None)
        found = checksum(document)
        canonical = json.dumps(document)
    except Damaged:
        raise
    except (ValueError, RecursionError) as error:  # half a surrogate pair is JSON and has no UTF-8
        raise Damaged(f"{where}: not JSON") from error
    if stated != found:
        raise Damaged(f"{where}: the checksum does not fit the content")
    if type(document.get("schema_version")) is not int:  # true == 1, and a Literal compares by value
        raise Damaged(f"{where}: schema_version: not a whole number")
    try:
        return model.model_validate_json(canonical)
    except ValidationError as error:
        first = error.errors()[0]
        raise Damaged(f"{where}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from error


def checksum(document: dict[str, Any]) -> str:
    """SHA-256 over all keys, in one way of writing them."""
    canonical = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(canonical.encode()).hexdigest()
