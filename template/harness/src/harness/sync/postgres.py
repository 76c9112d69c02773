"""A control table in a PostgreSQL that the team has anyway: one row a flag, read whole in one statement."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg

from harness.errors import PilotError
from harness.settings import Settings, without_password
from harness.sync.answers import ASK_WITHIN_S, Answer, Refused, Unreachable, in_time

T = TypeVar("T")
Connection = psycopg.AsyncConnection[Any]

# The trigger counts and dates each change, so that an UPDATE by hand needs to say no more than it means.
SCHEMA = """
CREATE TABLE IF NOT EXISTS pilot_control (
    flag       text PRIMARY KEY,
    pct        integer NOT NULL DEFAULT 0 CHECK (pct BETWEEN 0 AND 100),
    killed     boolean NOT NULL DEFAULT false,
    reason     text NOT NULL DEFAULT '',
    version    bigint NOT NULL DEFAULT 1,
    updated_at timestamptz NOT NULL DEFAULT now(),
    updated_by text NOT NULL DEFAULT current_user
);
CREATE OR REPLACE FUNCTION pilot_control_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    NEW.updated_at := now();
    NEW.updated_by := current_user;
    RETURN NEW;
END $$;
DROP TRIGGER IF EXISTS pilot_control_changed ON pilot_control;
CREATE TRIGGER pilot_control_changed BEFORE UPDATE ON pilot_control
    FOR EACH ROW EXECUTE FUNCTION pilot_control_changed();
"""
_ROW = "INSERT INTO pilot_control (flag, pct) VALUES (%s, 0) ON CONFLICT DO NOTHING"
_ASK = "SELECT pct, killed, version FROM pilot_control WHERE flag = %s"
_STANDBY = "SELECT pg_is_in_recovery()"
_STOP = "UPDATE pilot_control SET killed = true, reason = %s WHERE flag = %s"


class ControlTable:
    """One row of the control table.

    Args:
        settings: The pilot's settings, with a table [remote].
        within_s: How long an answer may take.
    """

    def __init__(self, settings: Settings, within_s: float = ASK_WITHIN_S) -> None:
        remote = settings.remote
        if remote is None:
            raise PilotError("no flag service is named", where="pilot.toml [remote]", mend="Write the table.")
        self._url = remote.url
        self._within_s = within_s
        self.flag = remote.flag or settings.pilot.package
        self.named = f"postgres {without_password(remote.url).split('?')[0]}"

    def ask(self, group: str) -> Answer:
        """Read the row; see ``Source``. Its share is drawn from the state's own group."""

        async def read(connection: Connection) -> tuple[Any, bool]:
            row = await (await connection.execute(_ASK, (self.flag,))).fetchone()
            standby = await (await connection.execute(_STANDBY)).fetchone()
            return row, bool(standby and standby[0])

        row, standby = self._within(read)
        if standby:
            # It answers with whatever reached it, and cannot know how old that is.
            mend = "Name the primary in [remote] url."
            raise Refused("it is a standby, which may be behind", where=self.named, mend=mend)
        where = f"{self.named}, flag {self.flag}"
        if row is None:
            note = f"{where}: there is no such row, so no model decides. `pilot sync init` makes it."
            return Answer(0, True, "no row", note)
        pct, killed, version = row
        if type(pct) is not int or not 0 <= pct <= 100 or type(killed) is not bool:
            raise Refused(
                "the row says what cannot be", where=where, mend="Set pct to 0 to 100, killed to false."
            )
        return Answer(pct, killed, f"version {version}")

    def stop(self, reason: str) -> None:
        """Set the row to killed; see ``Source``."""

        async def update(connection: Connection) -> int:
            return (await connection.execute(_STOP, (reason.replace("\0", ""), self.flag))).rowcount

        if self._within(update) != 1:
            where = f"{self.named}, flag {self.flag}"
            raise Refused("there is no such row", where=where, mend="`pilot sync init` makes it.")

    def create(self) -> None:
        """Create the table and the flag's row, at 0%, where they are missing.

        Raises:
            Refused: The account may not.
            Unreachable: It did not answer in time.
        """

        async def create(connection: Connection) -> None:
            await connection.execute(SCHEMA)
            await connection.execute(_ROW, (self.flag,))

        self._within(create)

    def _within(self, action: Callable[[Connection], Awaitable[T]]) -> T:
        async def connected() -> T:
            async with await psycopg.AsyncConnection.connect(
                self._url, connect_timeout=max(2, int(self._within_s)), application_name="pilot sync"
            ) as connection:
                return await action(connection)

        try:
            return in_time(connected(), within_s=self._within_s, where=self.named)
        except psycopg.errors.UndefinedTable as error:
            mend = "`pilot sync init` creates it."
            raise Refused("there is no table pilot_control", where=self.named, mend=mend) from error
        except psycopg.OperationalError as error:
            said = _line(error)
            if error.sqlstate is None and not any(
                word in said for word in ("authentication", "does not exist")
            ):
                mend = "See whether the database runs."
                raise Unreachable(f"it cannot be asked: {said}", where=self.named, mend=mend) from error
            mend = "Correct PILOT_REMOTE__URL or the account's rights."
            raise Refused(said, where=self.named, mend=mend) from error
        except psycopg.Error as error:
            mend = "Correct the table or the account's rights."
            raise Refused(_line(error), where=self.named, mend=mend) from error


def _line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
