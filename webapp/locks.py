"""How long a statement waits for a lock that somebody else holds."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from django.db import DatabaseError, connection, transaction
from psycopg.pq import TransactionStatus


@contextlib.contextmanager
def short_waits(milliseconds: int = 2000) -> Iterator[None]:
    """Inside, no statement waits longer for a lock: it raises OperationalError then."""
    if connection.vendor == "postgresql":
        with connection.execute_wrapper(_briefly(milliseconds)):
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute(f"PRAGMA busy_timeout = {milliseconds}")
    try:
        yield
    finally:
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 30000")


def _briefly(milliseconds: int) -> Callable[..., Any]:
    """Set the limit as each transaction begins, and for it alone: behind a pooler others get the session after it."""

    def execute_briefly(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
        driver: Any = connection.connection
        if driver.info.transaction_status != TransactionStatus.IDLE:
            return execute(sql, params, many, context)
        # A statement outside a transaction gets one; for the first of a transaction this changes nothing.
        with transaction.atomic(savepoint=False):
            driver.execute(f"SET LOCAL lock_timeout = '{milliseconds}ms'")
            return execute(sql, params, many, context)

    return execute_briefly
