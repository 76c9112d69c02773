"""Somebody else's application on an event loop of its own: what hangs there holds up nobody here.

A handler that blocks its event loop blocks every request of that loop, and one that blocks in a thread takes
a place of a pool that all handlers share. So the application gets both for itself. A call past its time is
left behind and keeps its place until it returns; once every place is kept so, further calls are refused at
once. The threads are daemons, so that a service which is told to end does.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import Future
from typing import Any

from harness.serving.calls import Busy, TooSlow
from harness.serving.logs import failed

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Application = Callable[[Scope, Callable[[], Awaitable[Message]], Callable[[Message], Awaitable[None]]], Any]


class Apart:
    """Runs an ASGI application in a thread of its own.

    Args:
        app: The application.
        places: How many calls may be under way at once.
        budget_s: Seconds that a caller waits for the whole answer.
    """

    def __init__(self, app: Application, *, places: int, budget_s: float) -> None:
        self._app = app
        self._budget_s = budget_s
        self._places = threading.Semaphore(places)
        self._tasks: set[asyncio.Task[list[Message]]] = set()
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._run, name="team", daemon=True).start()

    async def call(self, scope: Scope, body: bytes) -> list[Message]:
        """The application's whole answer to one request.

        Args:
            scope: The request's, as ASGI has it.
            body: The request's body.

        Raises:
            Busy: Every place is taken.
            TooSlow: The answer was not complete within the budget; the call was left behind.
        """
        if not self._places.acquire(blocking=False):
            raise Busy
        answer: Future[list[Message]] = Future()
        self._loop.call_soon_threadsafe(self._start, dict(scope), body, answer)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(answer), self._budget_s)
        except TimeoutError:
            raise TooSlow from None

    def _start(self, scope: Scope, body: bytes, answer: Future[list[Message]]) -> None:
        if not answer.set_running_or_notify_cancel():  # the loop was blocked until nobody waited any more
            self._places.release()
            return

        def finished(task: asyncio.Task[list[Message]]) -> None:
            self._tasks.discard(task)
            self._places.release()
            error = TooSlow() if task.cancelled() else task.exception()
            if error is None:
                answer.set_result(task.result())
            else:
                answer.set_exception(error)

        task = self._loop.create_task(self._answer(scope, body))
        self._tasks.add(task)  # a loop itself holds on to no task
        task.add_done_callback(finished)

    async def _answer(self, scope: Scope, body: bytes) -> list[Message]:
        unread = [{"type": "http.request", "body": body, "more_body": False}]
        sent: list[Message] = []

        async def receive() -> Message:
            if not unread:
                await asyncio.Event().wait()  # the caller is there until there is an answer
            return unread.pop()

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            async with asyncio.timeout(self._budget_s) as budget:
                await self._app(scope, receive, send)
        except asyncio.CancelledError:
            raise
        except BaseException as error:  # sys.exit() in a handler is a failure like any other
            if budget.expired():
                raise TooSlow from None
            failed("a route of the team's failed", error)
        return sent

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        while True:
            try:
                self._loop.run_forever()
            except (
                BaseException
            ) as error:  # sys.exit() in a task that a handler started reaches the loop itself
                failed("a task of a route of the team's failed", error)
