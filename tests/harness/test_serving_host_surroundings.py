"""A model's process has what the model needs, and neither secrets nor what is the service's or training's."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date
from typing import Any

import polars as pl
import psutil
import pytest

from harness.errors import CheckFailed, PilotError
from harness.pipeline import layout
from harness.serving.host import Limits, ModelFailed
from harness.serving.imported import imports
from harness.serving.proof import prove
from hosting import SERVING, answers, gone

Wait = Callable[..., Any]


def test_the_models_process_has_nothing_in_its_environment_that_was_not_let_through(
    tiny: Any, python: Any, wait: Wait
) -> None:
    digest = tiny.offered()
    tiny.model_does(
        digest,
        f"Path({str(tiny.root / 'seen')!r}).write_text(repr(dict(os.environ))); return np.array([0.9])",
    )
    held_back = {
        "PILOT_DOWNSTREAM__SECRET": "w" * 32,
        "AWS_SECRET_ACCESS_KEY": "w-1",
        "DATABASE": "postgresql://somebody:w-2@db/x",
        "ERP_DSN": "w-3",
        "DB_PASS": "w-4",
        "SLACK_WEBHOOK_URL": "https://example.org/w-5",
        "LICENSE": "w-6",
        "PYTHON_KEYRING": "w-7",
        "POLARS_CLOUD_ACCESS": "w-8",
        "OTHERS_OMP_NUM_THREADS_": "w-9",
    }
    let_through = {"OMP_NUM_THREADS": "1", "LC_TIME": "C", "TZ": "UTC", "PYTHONHASHSEED": "7"}
    named = {"REGION": "north", "RATES_LICENSE": "named, and so told"}
    process = python(
        SERVING + "print(service.host.pids()); sys.stdin.read()",
        tiny.root,
        **held_back,
        **let_through,
        **named,
        PILOT_SERVING__MODEL_ENVIRONMENT='["REGION", "RATES_LICENSE", "NOT_SET"]',
    )
    said = process.stdout.readline()
    (pid,) = eval(said).values()
    hosted = psutil.Process(pid)
    for each in (hosted, hosted.parent()):
        environment = each.environ()
        assert not set(held_back) & set(environment)
        assert "w-" not in repr(environment)
        assert {**let_through, **named}.items() <= environment.items()
        assert not {name for name in environment if name.upper().startswith("PILOT_")}
    assert "w-" not in (tiny.root / "seen").read_text()
    assert "named, and so told" in (tiny.root / "seen").read_text()
    # And neither is there anything open that is not the model's: no store, no listener.
    assert hosted.open_files() == []
    assert hosted.net_connections() == []
    # And both are gone with a service that had no time to end them.
    server = hosted.parent()
    process.kill()
    wait(lambda: gone(pid) and gone(server.pid))


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("PILOT_REMOTE__TOKEN", "is the harness's own"),
        ("pilot_remote__token", "is the harness's own"),
        ("NOT A NAME", "is no name of an environment variable"),
        ("A=1", "is no name of an environment variable"),
        ("*", "is no name of an environment variable"),
        ("", "is no name of an environment variable"),
    ],
)
def test_what_may_not_be_named_for_the_models_environment(tiny: Any, name: str, what: str) -> None:
    tiny.toml.write_text(tiny.toml.read_text() + f"model_environment = [{name!r}]\n")
    with pytest.raises(PilotError, match=what):
        tiny.settings()


def test_models_that_may_read_different_variables_share_no_server(tiny: Any, host: Any) -> None:
    digest = tiny.package().digest
    one, other = host(variables=["REGION"]), host()
    assert (one.state(digest), other.state(digest)) == ("loaded", "loaded")
    assert len({psutil.Process(each.pids()[digest]).ppid() for each in (one, other)}) == 2


def test_a_library_finds_no_training_stack_that_the_package_does_not_name(
    tiny: Any, host: Any, record: Any
) -> None:
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text("import lightgbm\n" + model.read_text())
    digest = tiny.package().digest
    asking = host(budget_s=60)
    seen = tiny.root / "seen"
    names = "' '.join(name for name, module in sys.modules.items() if module)"
    tiny.model_does(digest, f"Path({str(seen)!r}).write_text({names}); return np.array([0.9])")
    assert asking.state(digest) == "loaded"
    asking.score(digest, record)
    modules = {name.partition(".")[0] for name in seen.read_text().split()}
    assert {"lightgbm", "polars", "narwhals"} <= modules
    assert not {"pandas", "sklearn", "mlflow", "dvc", "ibis", "duckdb"} & modules


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("import pandas\n{}", id="in the file"),
        pytest.param("def later():\n    import pandas\n{}", id="in a function"),
        pytest.param("from importlib import import_module\nimport_module('pandas')\n{}", id="unseen"),
    ],
)
def test_a_package_that_needs_pandas_has_it(tiny: Any, host: Any, record: Any, where: str) -> None:
    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text(where.format(model.read_text()))
    digest = tiny.package().digest
    tiny.model_does(digest, "import pandas; return np.array([float(pandas.Series([0.8])[0])])")
    asking = host(budget_s=60)
    assert asking.state(digest) == "loaded"
    assert asking.score(digest, record).score == 0.8


def test_a_library_that_asks_for_pandas_only_when_it_scores_gets_it_for_the_next_call(
    tiny: Any, host: Any, record: Any, wait: Wait
) -> None:
    digest = tiny.package().digest
    tiny.model_does(digest, "import pandas; return np.array([0.8])")
    asking = host(budget_s=60)
    asking.state(digest)
    with pytest.raises(ModelFailed, match="ModuleNotFoundError"):
        asking.score(digest, record)
    wait(lambda: answers(asking, digest, record))


def test_what_is_only_for_types_is_not_imported(tiny: Any) -> None:
    from harness.pipeline.manifest import load_manifest
    from harness.serving.packaged import surroundings

    model = tiny.root / "src" / "dryfield" / "model.py"
    model.write_text(
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import pandas\n"
        "try:\n    import zlib\nexcept ImportError:\n    zlib = None\n\n"
        "def other():\n    from sklearn import tree\n" + model.read_text()
    )
    digest = tiny.package().digest
    found = surroundings(tiny.models / digest, load_manifest(tiny.models / digest))
    assert {"zlib", "json", "polars", "narwhals"} <= set(found.modules)
    assert not {"pandas", "sklearn"} & set(found.modules)
    assert (found.hidden, found.blocked) == (("pandas", "sklearn"), ("pandas",))
    assert surroundings(tiny.models / digest, load_manifest(tiny.models / digest), block=False).blocked == ()


def test_limits_hold_for_the_models_process_alone(tiny: Any, host: Any, record: Any) -> None:
    digest = tiny.package().digest
    limited = host(limits=Limits(memory_bytes=3 << 30, may_write=False, nice=7))
    assert limited.state(digest) == "loaded"
    process = psutil.Process(limited.pids()[digest])
    assert process.nice() == psutil.Process().nice() + 7
    assert process.rlimit(psutil.RLIMIT_FSIZE) == (0, 0)  # all that there is where the kernel has no more
    assert limited.score(digest, record).score == pytest.approx(0.8)
    tiny.model_does(digest, f"Path({str(tiny.root / 'written')!r}).write_text('x')")
    with pytest.raises(ModelFailed, match=r"PermissionError|OSError"):
        limited.score(digest, record)
    tiny.model_does(digest, "np.ones((4 << 30) // 8)")
    with pytest.raises(ModelFailed, match="MemoryError"):
        limited.score(digest, record)
    tiny.model_does(digest, f"Path({str(tiny.root / 'written')!r}).write_text('x'); return np.array([0.5])")
    assert host().score(digest, record).score == 0.5
    assert (tiny.root / "written").read_text() == "x"


def test_limits_that_cannot_be_set_are_told(tiny: Any, host: Any) -> None:
    state = host(limits=Limits(memory_bytes=1 << 70)).state(tiny.package().digest)
    assert "the limits of the model's process cannot be set" in state


IMPORTING = b"""
from __future__ import annotations
import alpha, beta.gamma as short
from delta import first, second
from . import beside
from .nearby import something
import typing
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import for_checkers
    if short:
        import for_checkers_too
else:
    import in_their_place
if typing.TYPE_CHECKING and alpha:
    from for_checkers_again import each
if not TYPE_CHECKING:
    import at_run_time
try:
    import perhaps
except ImportError:
    perhaps = None
class Model:
    import in_a_class
    def load(self):
        import in_a_method
        if TYPE_CHECKING:
            import for_checkers_in_a_method
async def later():
    from far.away import something
    def deeper():
        import deeper_still
"""


def test_what_a_file_imports_at_once_and_at_any_time() -> None:
    at_once = imports(IMPORTING, functions=False)
    assert at_once == {
        *("__future__", "alpha", "beta.gamma", "delta", "typing"),
        *("in_their_place", "at_run_time", "perhaps", "in_a_class"),
    }
    assert imports(IMPORTING, functions=True) - at_once == {"in_a_method", "far.away", "deeper_still"}


@pytest.mark.parametrize("content", [b"import (", b"\0", b"x = " + b"(" * 5_000])
def test_what_is_no_python_is_an_error_and_no_import(content: bytes) -> None:
    with pytest.raises((SyntaxError, ValueError, RecursionError, MemoryError)):
        imports(content, functions=True)


def test_no_tree_is_made_that_another_thread_could_break(monkeypatch: pytest.MonkeyPatch) -> None:
    """python/cpython#106905: it took a service's thread and whoever else parsed just then."""

    def broken(*_: object, **__: object) -> None:
        raise SystemError("AST constructor recursion depth mismatch (before=33, after=197)")

    monkeypatch.setattr("ast.parse", broken)
    assert imports(b"import alpha", functions=False) == {"alpha"}


def test_the_proof_sees_no_more_of_the_environment_than_a_service(
    tiny: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest = tiny.package()
    record = {**tiny.record, "measured_on": date(2026, 3, 1)}
    tiny.settings().path(layout.TEST).parent.mkdir(parents=True, exist_ok=True)
    pl.DataFrame([record]).write_parquet(tiny.settings().path(layout.TEST_RECORDS))
    features = {"dryness": [0.8], "depth": [20.0]}
    keys = {layout.KEY: ["r-1"], layout.LABEL: [1], layout.TIME: [date(2026, 3, 1)]}
    pl.DataFrame({**features, **keys}).write_parquet(tiny.settings().path(layout.TEST))
    monkeypatch.setenv("WEIGHT", "1.0")
    tiny.model_does(manifest.digest, "return features['dryness'].to_numpy() * float(os.environ['WEIGHT'])")
    with pytest.raises(CheckFailed, match="KeyError: 'WEIGHT'"):
        prove(tiny.settings(), manifest)
    monkeypatch.setenv("PILOT_SERVING__MODEL_ENVIRONMENT", '["WEIGHT"]')
    settings = tiny.settings()
    before = dict(os.environ)
    prove(settings, manifest)
    assert dict(os.environ) == before
