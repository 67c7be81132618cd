"""How long a statement waits for a lock that somebody else holds."""

import contextlib
from collections.abc import Iterator
from typing import Any

from django.db import DatabaseError, connection, transaction
from psycopg.pq import TransactionStatus


@contextlib.contextmanager
def short_waits() -> Iterator[None]:
    """Inside, no statement waits more than two seconds for a lock: it raises OperationalError then."""
    if connection.vendor == "postgresql":
        with connection.execute_wrapper(_briefly):
            yield
        return
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA busy_timeout = 2000")
    try:
        yield
    finally:
        with contextlib.suppress(DatabaseError), connection.cursor() as cursor:
            cursor.execute("PRAGMA busy_timeout = 30000")


def _briefly(execute: Any, sql: str, params: Any, many: bool, context: dict[str, Any]) -> Any:
    """Set the limit as each transaction begins, and for it alone: behind a pooler others get the session after it."""
    driver: Any = connection.connection
    if driver.info.transaction_status != TransactionStatus.IDLE:
        return execute(sql, params, many, context)
    # A statement outside a transaction gets one; for the first of a transaction this changes nothing.
    with transaction.atomic(savepoint=False):
        driver.execute("SET LOCAL lock_timeout = '2s'")
        return execute(sql, params, many, context)
