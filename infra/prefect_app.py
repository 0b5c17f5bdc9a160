"""The app that `prefect server start` serves, with transactions that wait for each other over SQLite.

Prefect's transactions read before they write. In SQLite such a one is refused at once ("database is locked") if
another has written meanwhile, however long it would wait, and Prefect answers 503: its clients send again, its pages
lose the run that somebody submitted (50 of 60 did, sent by four at a time). A transaction that takes the write lock
as it begins waits for its turn.
"""

from contextlib import AbstractAsyncContextManager
from typing import Any

from prefect.server.api.server import create_app
from prefect.server.database.configurations import AioSqliteConfiguration

__all__ = ["create_app"]

begin_transaction = AioSqliteConfiguration.begin_transaction


def begin_immediate(self: Any, session: Any, with_for_update: bool = False) -> AbstractAsyncContextManager[Any]:
    return begin_transaction(self, session, with_for_update=True)


AioSqliteConfiguration.begin_transaction = begin_immediate  # type: ignore[assignment,method-assign]
