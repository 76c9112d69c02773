"""Break one promise at a time and see that a test notices: ``python tests/harness/mutants.py [words]``.

A mutant is one edit of the harness. Each is made in a scratch copy, the tests that should notice are run
against the copy, and the mutant survives when they all pass. Exit code 1 when one survives or no longer fits
the code. With words, only those mutants are tried whose file and name hold them.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCE = ROOT / "template" / "harness" / "src" / "harness"

READING = "test_control_reading.py"
ACTING = "test_control_acting.py"
DECISIONS = "test_serving_decisions.py"
REQUESTS = "test_serving_requests.py"
STORE = "test_store.py"
PACKAGE = "test_package.py"


@dataclass(frozen=True)
class Mutant:
    """One edit and the tests that must notice it.

    Attributes:
        name: What the mutant does wrong.
        file: The file below src/harness.
        old: The text that is replaced; it occurs once.
        new: What replaces it.
        tests: The file of tests that must fail, below tests/harness.
        only: pytest's -k, to run no more than is needed.
    """

    name: str
    file: str
    old: str
    new: str
    tests: str
    only: str = ""


PERMISSION, STATE, ACTIONS = "control/permission.py", "control/state.py", "control/actions.py"
AUDIT, SERVICE, SCORER = "control/audit.py", "serving/service.py", "serving/scorer.py"
ADMISSION = "serving/admission.py"
SERVER, SCHEMA, APP = "serving/server.py", "serving/schema.py", "serving/app.py"
DATABASE, MANIFEST = "store/database.py", "pipeline/manifest.py"
WATCHED = "control/watched.py"

MUTANTS = (
    Mutant(
        "a KILL file that cannot be looked for means go",
        PERMISSION,
        "        except OSError:\n            return True\n        return True",
        "        except OSError:\n            return False\n        return True",
        READING,
        "look_for_the_kill_file or unsearchable",
    ),
    Mutant(
        "a KILL file is not looked at",
        PERMISSION,
        "        if stopped:\n            return Arm.FALLBACK, Why.KILLED",
        "        if stopped and state.latched:\n            return Arm.FALLBACK, Why.KILLED",
        READING,
        "anything_called_kill",
    ),
    Mutant(
        "a link that leads nowhere is no KILL file",
        PERMISSION,
        "os.lstat(self._sentinel)",
        "os.stat(self._sentinel)",
        READING,
        "anything_called_kill",
    ),
    Mutant(
        "the latch does not stop",
        PERMISSION,
        "if state.latched:",
        "if not state.latched and False:",
        READING,
        "latched_state",
    ),
    Mutant(
        "the model decides in the shadow stage",
        PERMISSION,
        'state.stage == "shadow"',
        'state.stage == "full"',
        READING,
        "shadow_stage or every_other_stage",
    ),
    Mutant(
        "an entity without a name gets the model",
        PERMISSION,
        "        if not entity:",
        "        if entity is None:",
        READING,
        "without_an_entity",
    ),
    Mutant(
        "the challenger has one bucket too few",
        PERMISSION,
        "number <= state.challenger.pct",
        "number < state.challenger.pct",
        READING,
        "own_buckets",
    ),
    Mutant(
        "the champion decides outside its share",
        PERMISSION,
        "number <= state.champion.pct",
        "number <= 100",
        READING,
        "own_buckets or share_of_nothing",
    ),
    Mutant(
        "buckets begin at 0, so that 0% is somebody",
        PERMISSION,
        "% 100 + 1",
        "% 100",
        READING,
        "buckets or share_of_nothing",
    ),
    Mutant(
        "buckets are the same for every flag", PERMISSION, 'f"{group}:{entity}"', "entity", READING, "buckets"
    ),
    Mutant(
        "the cache knows a file by its time and size alone",
        WATCHED,
        "(found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size)",
        "(0, found.st_mtime_ns, 0, found.st_size)",
        READING,
        "same_size_and_time",
    ),
    Mutant(
        "the cache takes a file for settled at once",
        WATCHED,
        "settled = ",
        "settled = True or ",
        READING,
        "one_tick",
    ),
    Mutant(
        "a state that vanished is remembered",
        WATCHED,
        "        except FileNotFoundError:\n            return None\n        except OSError as error:",
        "        except FileNotFoundError:\n            return self._cached[1] if self._cached else None\n"
        "        except OSError as error:",
        READING,
        "deleted_under_way",
    ),
    Mutant(
        "the checksum is not compared",
        "control/sealed.py",
        "if stated != found:",
        "if False:",
        READING,
        "without_its_checksum",
    ),
    Mutant("a share may be over 100", STATE, "ge=0, le=100", "ge=0", READING, "no_whole_number"),
    Mutant("a share may be under 0", STATE, "ge=0, le=100", "le=100", READING, "no_whole_number"),
    Mutant(
        "an unknown layout is read",
        STATE,
        "schema_version: Literal[1] = 1",
        "schema_version: int = 1",
        READING,
        "says_what_cannot_be",
    ),
    Mutant(
        "unknown keys are read past",
        STATE,
        'extra="forbid", strict=True)\n\n    schema',
        'extra="ignore", strict=True)\n\n    schema',
        READING,
        "says_what_cannot_be",
    ),
    Mutant(
        "a state is written in place",
        STATE,
        'beside = file.with_name(f".{file.name}.{os.getpid()}")',
        "beside = file",
        "test_control_processes.py",
        "thousand_writes",
    ),
    Mutant(
        "kill leaves the sentinel out",
        ACTIONS,
        "    _write_sentinel(folder, name, reason)\n    state = None",
        "    state = None",
        ACTING,
        "kill_without_a_state or damaged_state or holds_the_lock",
    ),
    Mutant(
        "kill latches nothing",
        ACTIONS,
        "latched = following(found, who, reason, latched=True)",
        "latched = following(found, who, reason, latched=False)",
        ACTING,
        "two_stops",
    ),
    Mutant(
        "kill waits for the lock as long as anybody",
        ACTIONS,
        "writing(folder, wait_s=2.0)",
        "writing(folder)",
        ACTING,
        "holds_the_lock",
    ),
    Mutant(
        "kill fails with the audit",
        ACTIONS,
        """            except Exception as error:
                missing.append(f"the line in""",
        """            except ZeroDivisionError as error:
                missing.append(f"the line in""",
        ACTING,
        "audit_that_cannot_be_written_holds",
    ),
    Mutant(
        "arm starts what was not stopped",
        ACTIONS,
        "if not state.latched and stop is None and not state.held:",
        "if False:",
        ACTING,
        "nothing_is_stopped",
    ),
    Mutant(
        "arm lifts whatever stop lies there",
        ACTIONS,
        "if (found.st_ino, found.st_mtime_ns) != stop:",
        "if False:",
        ACTING,
        "during_an_arm",
    ),
    Mutant(
        "an unwritten audit holds up nothing",
        ACTIONS,
        '    except OSError as error:\n        raise PilotError(\n            f"the audit',
        '    except OSError as error:\n        return\n        raise PilotError(\n            f"the audit',
        ACTING,
        "cannot_be_audited",
    ),
    Mutant(
        "a new model lifts a stop",
        ACTIONS,
        "latched=state.latched, challenger=slot",
        "latched=False, challenger=slot",
        ACTING,
        "no_reason_to_start_again",
    ),
    Mutant(
        "a new model is offered in every stage",
        ACTIONS,
        'state is not None and state.stage != "sandbox"',
        "False",
        ACTING,
        "outside_the_sandbox",
    ),
    Mutant(
        "the audit's chain is not followed",
        AUDIT,
        'or entry.get("previous") != (hashes[-1] if hashes else START)',
        "",
        ACTING,
        "deleted_line or inserted_line or swapped",
    ),
    Mutant(
        "an edited audit line passes",
        AUDIT,
        "if stated != _hash(entry):",
        "if False:",
        ACTING,
        "edited_line",
    ),
    Mutant(
        "a stop while the model scores comes too late",
        SERVICE,
        "if after.digest != asked.permission.digest:",
        "if False:",
        DECISIONS,
        "while_the_model_scores or while_it_scores",
    ),
    Mutant(
        "real data decides in the sandbox",
        SERVICE,
        'permission.stage == "sandbox" and self.host.manifest(permission.digest).origin == "real"',
        "False",
        DECISIONS,
        "real_data",
    ),
    Mutant(
        "no decision is told to be of the sandbox",
        SERVICE,
        'return self._last_known_stage == "sandbox"',
        "return False",
        DECISIONS,
        "not_real or nothing_real",
    ),
    Mutant(
        "what cannot be recorded is answered",
        ADMISSION,
        "            self.settle([(asked, error) for asked, _ in waiting])\n            return\n",
        "            standing = made\n",
        DECISIONS,
        "cannot_be_recorded",
    ),
    Mutant(
        "a decision is not recorded",
        SERVICE,
        "standing = self.store.record_all(made, more)",
        "standing = list(made)",
        DECISIONS,
        "in_the_store",
    ),
    Mutant(
        "a fallback that fails gives no error of its own",
        SERVICE,
        "self._recorder.settle([(asked, FallbackFailed(type(error).__name__))])",
        'self._recorder.put(asked, Outcome(asked.permission, asked.why, "skip", ()))',
        DECISIONS,
        "fallback_that",
    ),
    Mutant(
        "a model's failure hides what was assigned",
        SERVICE,
        "                self._leave(asked, asked.permission, why)\n",
        "                self._leave(asked, Permission(Arm.FALLBACK, why), why)\n",
        DECISIONS,
        "no_valid_score",
    ),
    Mutant(
        "any score will do",
        SCORER,
        "if not math.isfinite(score) or not self.decision.valid(score):",
        "if False:",
        DECISIONS,
        "no_valid_score",
    ),
    Mutant(
        "a package is loaded unverified",
        SCORER,
        "= verify(folder, digest)",
        '= __import__("harness.pipeline.manifest", fromlist=["x"]).load_manifest(folder)',
        DECISIONS,
        "without_its_package",
    ),
    Mutant(
        "loading leaves compiled files behind",
        SCORER,
        "sys.dont_write_bytecode = True",
        "pass",
        PACKAGE,
        "compiled_file",
    ),
    Mutant(
        "the sandbox listens everywhere",
        SERVER,
        "if host is not None and not loopback(host):",
        "if False:",
        DECISIONS,
        "loopback_only",
    ),
    Mutant(
        "a damaged state frees the address",
        SERVER,
        'if state is None or state.stage == "sandbox":',
        'if state is not None and state.stage == "sandbox":',
        DECISIONS,
        "loopback_only",
    ),
    Mutant(
        "the control folder may lie in the work tree",
        SERVER,
        "elif control.folder.resolve().is_relative_to(settings.root):",
        "elif False:",
        DECISIONS,
        "outside_the_work_tree",
    ),
    Mutant("unknown fields pass", SCHEMA, 'extra="forbid"', 'extra="ignore"', REQUESTS, "does_not_know"),
    Mutant(
        "text passes for a number", SCHEMA, "strict=True", "strict=False", REQUESTS, "breaks_the_contract"
    ),
    Mutant("NaN passes", SCHEMA, ", allow_inf_nan=False", "", REQUESTS, "breaks_the_contract"),
    Mutant(
        "ranges are not kept",
        SCHEMA,
        "Field(ge=low, le=high)",
        "Field()",
        REQUESTS,
        "breaks_the_contract",
    ),
    Mutant(
        "a refused value is sent back",
        APP,
        '"message": _plain(item["msg"])}',
        '"message": _plain(item["msg"]) + str(item.get("input"))}',
        REQUESTS,
        "breaks_the_contract",
    ),
    Mutant(
        "commits do not wait for the disk",
        DATABASE,
        "PRAGMA synchronous=FULL",
        "PRAGMA synchronous=NORMAL",
        STORE,
        "durable",
    ),
    Mutant(
        "a file that was added passes",
        MANIFEST,
        "for path in sorted({*found, *manifest.files}):",
        "for path in sorted(manifest.files):",
        PACKAGE,
        "to_the_byte",
    ),
    Mutant(
        "another package passes",
        MANIFEST,
        ".hexdigest() != digest:",
        ".hexdigest() == 0:",
        PACKAGE,
        "refused",
    ),
    Mutant(
        "a linked folder passes",
        MANIFEST,
        "not path.is_symlink() and (path.is_file() or path.is_dir())",
        "True",
        PACKAGE,
        "to_the_byte",
    ),
)


def everything() -> tuple[Mutant, ...]:
    """The mutants of this file and of those beside it, mutants_*.py."""
    found = list(MUTANTS)
    sys.modules.setdefault("mutants", sys.modules[__name__])  # where they take Mutant from
    for file in sorted(Path(__file__).parent.glob("mutants_*.py")):
        spec = importlib.util.spec_from_file_location(file.stem, file)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        found += module.MUTANTS
    return tuple(found)


def verdict(mutant: Mutant) -> str:
    """``killed``; or what is wrong: it survived, no longer fits, or its tests could not be run."""
    text = (SOURCE / mutant.file).read_text(encoding="utf-8")
    if text.count(mutant.old) != 1:
        return f"its text is found {text.count(mutant.old)} times in {mutant.file}"
    with tempfile.TemporaryDirectory(prefix="mutant-") as scratch:
        copy = Path(scratch) / "harness"
        shutil.copytree(SOURCE, copy, ignore=shutil.ignore_patterns("__pycache__"))
        (copy / mutant.file).write_text(text.replace(mutant.old, mutant.new), encoding="utf-8")
        # A mutant that is no Python would be killed by every test, and by none for the right reason.
        compile((copy / mutant.file).read_text(encoding="utf-8"), mutant.file, "exec")
        code, output = _run_tests(Path(scratch), mutant)
    if f"harness under test: {copy}" not in output:
        return f"the copy was not what was tested:\n{output[-2000:]}"
    return {0: "survived", 1: "killed"}.get(code, f"pytest ended with {code}:\n{output[-2000:]}")


def examine(mutants: tuple[Mutant, ...], tell: Callable[[str], None] = lambda line: None) -> list[str]:
    """Try each mutant; gives a line for each that was not killed."""
    trouble = []
    for mutant in mutants:
        found = verdict(mutant)
        tell(f"{found.splitlines()[0]:<10} {mutant.file}: {mutant.name}")
        if found != "killed":
            trouble.append(f"{mutant.file}: {mutant.name}: {found}")
    return trouble


def _run_tests(source: Path, mutant: Mutant) -> tuple[int, str]:
    here = Path(__file__).parent
    command = [sys.executable, "-m", "pytest", str(here / mutant.tests), "-x", "-q", "-s", "--tb=no"]
    command += ["-p", "no:cacheprovider", f"--confcutdir={here}", "-o", "timeout=60"]
    command += ["-k", mutant.only] if mutant.only else []
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environment |= {
        "PYTHONPATH": os.pathsep.join([str(source), os.environ.get("PYTHONPATH", "")]),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HARNESS_MUTANT": "1",
    }
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=300
    )
    return done.returncode, done.stdout + done.stderr


if __name__ == "__main__":
    wanted = " ".join(sys.argv[1:])
    failed = examine(tuple(one for one in everything() if wanted in f"{one.file}: {one.name}"), print)
    print("\n".join(failed) or "every mutant was killed")
    sys.exit(bool(failed))
