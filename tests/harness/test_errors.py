"""What nobody foresaw is told in one line as well, and as what it is."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from harness.errors import full, unforeseen


def wrapped(cause: BaseException) -> Exception:
    try:
        raise RuntimeError("a library says\nmany lines") from cause
    except RuntimeError as error:
        return error


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
def test_a_full_disk_is_nobodys_defect(number: int, tmp_path: Path) -> None:
    error = wrapped(OSError(number, os.strerror(number), "/data/raw"))
    assert full(error)
    said = unforeseen(error, tmp_path)
    assert (said.where, said.exit_code) == ("/data/raw", 2)
    assert f"the disk has no room left ({os.strerror(number)})" in str(said)
    assert "Free some" in str(said)


@pytest.mark.parametrize("text", ["IO Error: No space left on device", "database or disk is full"])
def test_a_full_disk_that_a_library_only_quotes(text: str, tmp_path: Path) -> None:
    error = wrapped(ValueError(f"(background)\n{text}\nmore"))
    assert str(unforeseen(error, tmp_path)).startswith(f"{tmp_path}: the disk has no room left ({text})")


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EPERM])
def test_a_missing_right_names_the_file(number: int, tmp_path: Path) -> None:
    said = unforeseen(OSError(number, os.strerror(number), "/data/raw"), tmp_path)
    assert said.where == "/data/raw"
    assert "this account may not read or write there" in said.what


def test_anything_else_is_a_defect_of_the_one_whose_code_it_was(tmp_path: Path) -> None:
    file = tmp_path / "src" / "plot" / "model.py"
    file.parent.mkdir(parents=True)
    file.write_text("def f():\n    return 1 / 0\n")
    try:
        exec(compile(file.read_text() + "f()", str(file), "exec"))
    except ZeroDivisionError as error:
        said = unforeseen(error, tmp_path)
    assert str(said).startswith("model.py line 2: ZeroDivisionError: division by zero. Correct it")
    assert not full(ZeroDivisionError("x"))
    assert "A defect of the standard" in unforeseen(KeyError("x"), tmp_path).mend
