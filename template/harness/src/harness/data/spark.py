"""Spark as the engine: one session a process, set up so that it says what DuckDB says.

What Ibis does otherwise on Spark than on DuckDB is put right in spark_backend.py, so that nothing else has to
know which of the two it runs on.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from harness.data_settings import THE_STANDARDS, Spark
from harness.errors import PilotError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JAVA = range(17, 22)
LOGGED = "spark.log"
OPTIONS = "spark.driver.extraJavaOptions"
ENGINE, SECTION = "pilot.toml [data] engine", "pilot.toml [data.spark]"
# Hadoop takes these in a path for a pattern.
PATTERN = re.compile(r"[*?{}\[\]\\]")
# Nothing is fetched when a session starts, whatever spark-defaults.conf says.
FIXED = {**THE_STANDARDS, "spark.jars.packages": ""}
USUAL = {
    "spark.ui.enabled": "false",
    "spark.ui.showConsoleProgress": "false",
    "spark.sql.catalogImplementation": "in-memory",
}
LOG = """\
rootLogger.level = warn
rootLogger.appenderRef.file.ref = file
appender.file.type = File
appender.file.name = file
appender.file.fileName = {file}
appender.file.append = true
appender.file.layout.type = PatternLayout
appender.file.layout.pattern = %d{{yyyy-MM-dd HH:mm:ss}} %p %c{{1}}: %m%n
"""


def connect(settings: Spark, work: Path, name: str) -> Any:
    """Ibis on this process's Spark session, which is made when there is none yet.

    Args:
        settings: Where Spark runs.
        work: A folder of the pilot's, for Spark's log and what it writes on the side.
        name: What the application is called where pilot.toml does not say.

    Raises:
        PilotError: pyspark is not installed, there is no Java that Spark runs on, or no session can be made.
    """
    if PATTERN.search(str(work)):
        raise PilotError(
            "Spark takes a path with one of * ? { } [ ] \\ for a pattern",
            where=str(work),
            mend="Move the pilot into a folder without it.",
        )
    try:
        from harness.data.spark_backend import Backend
    except ImportError as error:
        raise PilotError(
            f'the engine "spark" needs pyspark, which is not installed ({error})',
            where=ENGINE,
            mend='Write "pilot-template-harness[spark]" in the dependencies in pyproject.toml, and run '
            "`make setup`.",
        ) from error
    # `ibis.pyspark` would do so for its own.
    Backend.register_options()
    return Backend().connect(_session(settings, work, name))


def _session(settings: Spark, work: Path, name: str) -> SparkSession:
    from pyspark.sql import SparkSession

    running: SparkSession | None = SparkSession.getActiveSession()
    if running is None:
        refuse_java(os.environ)
        refuse_packages(os.environ)
        work.mkdir(parents=True, exist_ok=True)
        builder = SparkSession.builder.appName(settings.app_name or name)
        if settings.master:
            builder = builder.master(settings.master)
        for key, value in configuration(settings, work).items():
            builder = builder.config(key, value)
        try:
            running = builder.getOrCreate()
        except Exception as error:
            said = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise PilotError(
                f"no Spark session can be made: {said}",
                where=SECTION,
                mend=f"Check master and config there; {work / LOGGED} and what Spark said above tell more.",
            ) from error
        atexit.register(_stop, running)
    # A session that was there already, as in a job on a cluster's driver, has settings of its own.
    for key, value in THE_STANDARDS.items():
        running.conf.set(key, value)
    return running


def refuse_packages(environment: Mapping[str, str]) -> None:
    """Refuse what would have Spark fetch code when a session starts.

    Raises:
        PilotError: PYSPARK_SUBMIT_ARGS names packages.
    """
    if "--packages" in environment.get("PYSPARK_SUBMIT_ARGS", ""):
        raise PilotError(
            "it has Spark fetch packages when a session starts",
            where="PYSPARK_SUBMIT_ARGS",
            mend='Bring the files, and name them in [data.spark.config] "spark.jars".',
        )


def _stop(session: SparkSession) -> None:
    """End the session with this process: a cluster then counts it as finished, and not as lost."""
    with contextlib.suppress(Exception):  # Java may have ended before
        session.stop()


def configuration(settings: Spark, work: Path) -> dict[str, str]:
    """Every setting of the session that is made, the standard's last: results hang on them.

    Args:
        settings: What pilot.toml says.
        work: A folder of the pilot's.
    """
    own = {key: _written(value) for key, value in settings.config.items()}
    log = work / "log4j2.properties"
    log.write_text(LOG.format(file=work / LOGGED), encoding="utf-8")
    options = own.pop(OPTIONS, "")
    found = {**USUAL, "spark.sql.warehouse.dir": f"file://{work / 'warehouse'}"}
    if settings.master.startswith("local"):
        # On one machine nobody else has to reach it.
        found |= {"spark.driver.host": "127.0.0.1", "spark.driver.bindAddress": "127.0.0.1"}
        found["spark.local.dir"] = str(work)
    found |= {OPTIONS: f"-Dlog4j2.configurationFile=file://{quote(str(log))} {options}".strip()}
    return {**found, **own, **FIXED}


def _written(value: str | int | float | bool) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def refuse_java(environment: Mapping[str, str]) -> None:
    """Refuse to start Spark where it would end in a stack trace of its own.

    Args:
        environment: JAVA_HOME, or else PATH, says which Java is taken, as Spark does it.

    Raises:
        PilotError: There is no Java, or one that this version of Spark does not run on.
    """
    home = environment.get("JAVA_HOME")
    java = f"{home}/bin/java" if home else shutil.which("java", path=environment.get("PATH"))
    where = "JAVA_HOME" if home else "PATH"
    mend = "Install Java 17 (such as openjdk-17-jre-headless), or set JAVA_HOME to where it lies."
    if not java:
        raise PilotError("Spark needs Java 17, and there is no java", where=where, mend=mend)
    try:
        done = subprocess.run([java, "-version"], capture_output=True, text=True, timeout=60)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PilotError(
            f"Spark needs Java 17, and {java} does not run ({type(error).__name__})", where=where, mend=mend
        ) from error
    said = done.stderr + done.stdout
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    if found is None or int(found[1]) not in JAVA:
        version = f"is Java {found[1]}" if found else "does not say its version"
        raise PilotError(
            f"Spark needs Java {JAVA.start} to {JAVA.stop - 1}, and {java} {version}", where=where, mend=mend
        )
