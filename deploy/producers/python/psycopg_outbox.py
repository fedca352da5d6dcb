"""For psycopg 3: enqueue a notification in the transaction that the connection is in. It is sent if you commit.

    with connection.transaction():
        connection.execute("INSERT INTO orders ...")
        enqueue(connection, kind="order_confirmed", recipients=["Ada <ada@example.org>"], subject=..., body_text=...)

Takes the arguments of outbox.enqueue() by name (\\d+ outbox.notification explains them) and returns the message's id.
Dictionaries and lists of them become jsonb, bytes bytea. Outside of a transaction it follows the connection: with
autocommit it is enqueued at once, else the implicit transaction begins, which you have to commit.

What is refused raises psycopg.DataError (dedup_key used for other content: IntegrityError) with sqlstate and
diag.message_hint. In a transaction that has begun, a savepoint keeps it usable, should you catch that inside: without it
Postgres would answer COMMIT with a rollback, and nobody would notice.
"""

from contextlib import nullcontext
from uuid import UUID

from psycopg import AsyncConnection, Connection, sql
from psycopg.pq import TransactionStatus
from psycopg.rows import scalar_row
from psycopg.types.json import Jsonb

JSON = {"payload", "headers", "attachments"}
LISTS = {"recipients", "cc", "bcc"}


def _adapted(name, value):
    if name in JSON and not isinstance(value, str):
        return Jsonb(value)
    # A string instead of a list would be repeated in Postgres' own error, with the address.
    return list(value) if name in LISTS else value


def _call(arguments):
    """The statement, and its parameters."""
    parameters = {name: _adapted(name, value) for name, value in arguments.items() if value is not None}
    named = (sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in parameters)
    return sql.SQL("SELECT outbox.enqueue({})").format(sql.SQL(", ").join(named)), parameters


def _savepoint(connection):
    # Only in a transaction: connection.transaction() would begin and commit one otherwise.
    in_transaction = connection.info.transaction_status == TransactionStatus.INTRANS
    return connection.transaction() if in_transaction else nullcontext()


def enqueue(connection: Connection, **arguments) -> UUID:
    with _savepoint(connection), connection.cursor(row_factory=scalar_row) as cursor:
        return cursor.execute(*_call(arguments)).fetchone()


async def enqueue_async(connection: AsyncConnection, **arguments) -> UUID:
    async with _savepoint(connection), connection.cursor(row_factory=scalar_row) as cursor:
        await cursor.execute(*_call(arguments))
        return await cursor.fetchone()
