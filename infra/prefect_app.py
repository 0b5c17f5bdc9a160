"""The app that `prefect server start` serves, whose database may be busy or away: nobody who asks loses by it.

SQLite: Prefect's transactions read before they write. In SQLite such a one is refused at once ("database is locked")
if another has written meanwhile, however long it would wait, and Prefect answers 503: its clients send again, its pages
lose the run that somebody submitted (50 of 60 did, sent by four at a time). A transaction that takes the write lock
as it begins waits for its turn.

PostgreSQL that starts again: a connection refused is an OSError, at which Prefect answers 500, and a flow that is to
set a state then crashes. At 503 its client sends again. What the server itself has still to write of task runs it
keeps longer than Prefect's 25 s, or they would say "Running" for ever.

Its pages at /v2 ask their maker's servers even where analytics are off: they are sent with the browser's order to send
requests to no other server than this one, under the page's own name and under that which they know the API by.
"""

from contextlib import AbstractAsyncContextManager
from functools import partialmethod
from typing import Any
from urllib.parse import urlsplit

from fastapi import FastAPI
from prefect.server.api import server
from prefect.server.database.configurations import AioSqliteConfiguration
from prefect.server.services.task_run_recorder import TaskRunRecorder
from prefect.settings import PREFECT_UI_API_URL

__all__ = ["create_app"]

CONTENT = b"content-type"
KEPT = 3600  # tries, one or more a second
begin_transaction = AioSqliteConfiguration.begin_transaction
is_client_retryable = server.is_client_retryable_exception


def begin_immediate(self: Any, session: Any, with_for_update: bool = False) -> AbstractAsyncContextManager[Any]:
    return begin_transaction(self, session, with_for_update=True)


def is_retryable(error: Exception) -> bool:
    return isinstance(error, OSError) or is_client_retryable(error)


AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[assignment,method-assign]
server.is_client_retryable_exception = is_retryable
TaskRunRecorder.start = partialmethod(TaskRunRecorder.start, max_persist_retries=KEPT)  # type: ignore[assignment,method-assign]


class OwnPages:
    """Around the app: what is HTML sends requests to this server alone."""

    def __init__(self, app: Any) -> None:
        self.app = app
        api = urlsplit(PREFECT_UI_API_URL.value()).netloc  # a page opened as localhost or through a tunnel asks there
        self.order = (b"content-security-policy", f"connect-src 'self' http://{api} ws://{api}".encode())

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def sent(message: Any) -> None:
            if message["type"] == "http.response.start" and b"text/html" in dict(message["headers"]).get(CONTENT, b""):
                message = {**message, "headers": [*message["headers"], self.order]}
            await send(message)

        await self.app(scope, receive, sent)


def create_app() -> FastAPI:
    app = server.create_app()
    app.add_middleware(OwnPages)
    return app
