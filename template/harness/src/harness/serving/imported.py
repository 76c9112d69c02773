"""Which modules a Python file imports, read out of its compiled code and not run."""

from __future__ import annotations

import dis
import inspect
from collections.abc import Iterator
from types import CodeType

LOADED = ("LOAD_NAME", "LOAD_GLOBAL", "LOAD_ATTR")


def imports(content: bytes, *, functions: bool) -> frozenset[str]:
    """The absolute imports of a file, those under TYPE_CHECKING left out.

    It compiles and makes no tree: before 3.11.8 and 3.12.1, two threads that make trees break each other's
    (python/cpython#106905), and the other thread may be anybody's.

    Args:
        content: The file.
        functions: Whether those count that stand in functions.

    Raises:
        SyntaxError: It is not Python; a ValueError or RecursionError, too, where Python says it so.
    """
    code = compile(content, "model", "exec", dont_inherit=True)
    return frozenset(_imported(code, functions=functions))


def _imported(code: CodeType, *, functions: bool) -> Iterator[str]:
    instructions = list(dis.get_instructions(code))
    after = 0
    for place, each in enumerate(instructions):
        if each.offset < after:
            continue
        if each.opname in LOADED and each.argval == "TYPE_CHECKING":
            after = _skipped(instructions[place + 1 : place + 4])
        elif each.opname == "IMPORT_NAME":
            # What comes before it on the stack: how many packages up, and what is taken out of the module.
            loaded = [before.argval for before in instructions[:place] if before.opname.startswith("LOAD_")]
            if loaded[-2] == 0:
                yield each.argval
    for nested in code.co_consts:
        # A class's body runs where it stands; what a function imports may never be needed.
        if isinstance(nested, CodeType) and (functions or not nested.co_flags & inspect.CO_OPTIMIZED):
            yield from _imported(nested, functions=functions)


def _skipped(following: list[dis.Instruction]) -> int:
    for each in following:
        if "JUMP" in each.opname and "IF_FALSE" in each.opname:
            return int(each.argval)
    return 0
