"""Whoever loads a packaged model gets the bytes that its digest names, or an error."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from harness.errors import PilotError
from harness.pipeline import layout
from harness.pipeline.manifest import MANIFEST, Manifest, build_package, keep, load_manifest, verify


@pytest.fixture
def manifest(tiny: Any) -> Manifest:
    return tiny.package()


@pytest.fixture
def kept(tiny: Any, manifest: Manifest) -> Path:
    return tiny.models / manifest.digest


def test_a_package_holds_what_decides_and_not_the_sources(manifest: Manifest, kept: Path) -> None:
    assert set(manifest.files) == {
        "model/weights.json",
        "code/__init__.py",
        "code/contract.py",
        "code/fallback.py",
        "code/features.py",
        "code/model.py",
        "reference.json",
    }
    assert manifest.features == ("dryness", "depth")
    assert verify(kept, manifest.digest) == manifest


def test_the_digest_is_the_hash_of_the_manifest_and_its_files_are_hashed(
    manifest: Manifest, kept: Path
) -> None:
    content = (kept / MANIFEST).read_bytes()
    assert hashlib.sha256(content).hexdigest() == manifest.digest == kept.name
    for path, stated in json.loads(content)["files"].items():
        assert hashlib.sha256((kept / path).read_bytes()).hexdigest() == stated


def test_the_same_inputs_give_the_same_digest_and_another_model_another(
    tiny: Any, manifest: Manifest
) -> None:
    assert build_package(tiny.settings()).digest == manifest.digest
    assert tiny.package(weight=0.5).digest != manifest.digest


def changed(kept: Path) -> str:
    (kept / "code" / "model.py").write_bytes((kept / "code" / "model.py").read_bytes() + b" ")
    return "code/model.py"


def missing(kept: Path) -> str:
    (kept / "model" / "weights.json").unlink()
    return "model/weights.json"


def added(kept: Path) -> str:
    (kept / "code" / "numpy.py").touch()
    return "code/numpy.py"


def compiled(kept: Path) -> str:
    (kept / "code" / "__pycache__").mkdir()
    (kept / "code" / "__pycache__" / "model.cpython-311.pyc").write_bytes(b"\0")
    return "code/__pycache__/model.cpython-311.pyc"


def hidden(kept: Path) -> str:
    (kept / ".hidden").touch()
    return ".hidden"


def renamed(kept: Path) -> str:
    (kept / "code" / "model.py").rename(kept / "code" / "Model.py")
    return "code/Model.py"


def linked_file(kept: Path) -> str:
    """The same bytes, from a place where somebody may change them after the check."""
    outside = kept.parents[2] / "outside.py"
    shutil.copy(kept / "code" / "model.py", outside)
    (kept / "code" / "model.py").unlink()
    (kept / "code" / "model.py").symlink_to(outside)
    return "code/model.py"


def linked_folder(kept: Path) -> str:
    """Python imports the folder `contract` before the file `contract.py`."""
    outside = kept.parents[2] / "outside"
    outside.mkdir()
    (outside / "__init__.py").write_text("raise SystemExit('not the code that was packaged')")
    (kept / "code" / "contract").symlink_to(outside)
    return "code/contract"


def dangling(kept: Path) -> str:
    (kept / "model" / "more").symlink_to("nowhere")
    return "model/more"


TRICKS = [changed, missing, added, compiled, hidden, renamed, linked_file, linked_folder, dangling]


@pytest.mark.parametrize("trick", TRICKS)
def test_a_package_that_is_not_to_the_byte_what_it_was_is_refused(
    manifest: Manifest, kept: Path, trick: Callable[[Path], str]
) -> None:
    path = trick(kept)
    with pytest.raises(PilotError) as told:
        verify(kept, manifest.digest)
    assert path in told.value.where


def test_another_digest_is_refused(manifest: Manifest, kept: Path) -> None:
    with pytest.raises(PilotError, match="not the one of digest"):
        verify(kept, "0" * 64)


def test_a_file_changed_together_with_its_manifest_is_another_package(manifest: Manifest, kept: Path) -> None:
    weights = kept / "model" / "weights.json"
    weights.write_text('{"weight": 100.0}')
    document = json.loads((kept / MANIFEST).read_bytes())
    document["files"]["model/weights.json"] = hashlib.sha256(weights.read_bytes()).hexdigest()
    forged = Manifest.model_validate(document)
    (kept / MANIFEST).write_bytes(forged.content)
    with pytest.raises(PilotError, match="not the one of digest"):
        verify(kept, manifest.digest)
    assert verify(kept, forged.digest).files == forged.files


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"\xff", b"{}", b'{"schema_version": 2}'], ids=[*"abcdef"]
)
def test_what_is_no_manifest_is_refused(manifest: Manifest, kept: Path, content: bytes) -> None:
    (kept / MANIFEST).write_bytes(content)
    with pytest.raises(PilotError, match="not a manifest"):
        load_manifest(kept)


def test_a_manifest_of_another_layout_is_refused(manifest: Manifest, kept: Path) -> None:
    document = json.loads((kept / MANIFEST).read_bytes())
    (kept / MANIFEST).write_text(json.dumps({**document, "schema_version": 2}))
    with pytest.raises(PilotError, match="not a manifest"):
        load_manifest(kept)


def test_no_package_is_told_as_such(tmp_path: Path) -> None:
    with pytest.raises(PilotError, match="no packaged model"):
        verify(tmp_path, "0" * 64)


def test_keeping_a_package_twice_writes_it_once(tiny: Any, manifest: Manifest, kept: Path) -> None:
    before = {file: file.stat().st_ino for file in kept.rglob("*")}
    assert keep(tiny.root / layout.PACKAGE, tiny.models) == manifest
    assert {file: file.stat().st_ino for file in kept.rglob("*")} == before
    assert [file.name for file in tiny.models.iterdir()] == [manifest.digest]


@pytest.mark.parametrize("trick", TRICKS)
def test_keeping_a_package_mends_a_damaged_copy(
    tiny: Any, manifest: Manifest, kept: Path, trick: Callable[[Path], str]
) -> None:
    trick(kept)
    keep(tiny.root / layout.PACKAGE, tiny.models)
    assert verify(kept, manifest.digest) == manifest


def test_a_copy_that_a_crash_left_half_done_is_no_hindrance(
    tiny: Any, manifest: Manifest, kept: Path
) -> None:
    shutil.rmtree(kept)
    half = tiny.models / f".{manifest.digest}.part"
    half.mkdir()
    (half / "left over").touch()
    keep(tiny.root / layout.PACKAGE, tiny.models)
    assert verify(kept, manifest.digest) == manifest


@pytest.mark.parametrize("trick", TRICKS)
def test_a_damaged_package_is_not_kept(
    tiny: Any, manifest: Manifest, kept: Path, trick: Callable[[Path], str]
) -> None:
    shutil.rmtree(kept)
    (tiny.root / "data" / "deep").mkdir()
    package = (tiny.root / layout.PACKAGE).rename(tiny.root / "data" / "deep" / "package")
    trick(package)
    with pytest.raises(PilotError):
        keep(package, tiny.models)
    assert not kept.exists()


def test_deciding_leaves_no_compiled_file_in_the_package(tiny: Any) -> None:
    digest = tiny.offered()
    service = tiny.service()
    assert service.decide(tiny.parsed()).served_by == "model"  # its predict() imports as late as then
    assert list((tiny.models / digest).rglob("*.pyc")) == []
    verify(tiny.models / digest, digest)


def test_a_package_whose_code_fails_at_import_fails_every_time(tiny: Any) -> None:
    from harness import pilot

    code = tiny.root / "broken"
    code.mkdir()
    (code / "__init__.py").write_text("raise RuntimeError('at import')")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="at import"):
            pilot.mount(code, "packaged_broken")


def test_two_that_keep_the_same_package_at_once_both_keep_it_whole(
    tiny: Any, manifest: Manifest, kept: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.rmtree(kept)
    together = threading.Barrier(2)
    copy = shutil.copytree

    def copied_together(*arguments: Any, **options: Any) -> Any:
        found = copy(*arguments, **options)
        together.wait(timeout=20)
        return found

    monkeypatch.setattr("harness.pipeline.manifest.shutil.copytree", copied_together)
    with ThreadPoolExecutor(2) as pool:
        made = [pool.submit(keep, tiny.root / layout.PACKAGE, tiny.models) for _ in range(2)]
        assert [each.result(timeout=30).digest for each in made] == [manifest.digest] * 2
    assert verify(kept, manifest.digest) == manifest
    assert [path.name for path in tiny.models.iterdir()] == [manifest.digest], "nothing is left beside it"


def test_what_a_killed_process_left_beside_the_models_is_taken_away_later(
    tiny: Any, manifest: Manifest, kept: Path
) -> None:
    old, young = tiny.models / ".abc.old.part", tiny.models / ".abc.young.part"
    for folder in (old, young):
        folder.mkdir()
    os.utime(old, (1, 1))
    shutil.rmtree(kept)
    keep(tiny.root / layout.PACKAGE, tiny.models)
    assert not old.exists()
    assert young.exists(), "somebody may be at work there"
