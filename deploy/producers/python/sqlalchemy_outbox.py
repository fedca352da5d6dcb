"""For SQLAlchemy 2: enqueue a notification in the session's transaction. It is sent if the session commits.

    with Session.begin() as session:
        session.add(Order(...))
        enqueue(session, kind="order_confirmed", recipients=["Ada <ada@example.org>"], subject=..., body_text=...)

Takes the columns of the view outbox.notification by name (\\d+ in psql explains them), returns the message's id.
`session` may be a Connection as well; asyncio: await session.run_sync(enqueue, kind=...). Pending objects are flushed.

What is refused raises sqlalchemy.exc.DataError (dedup_key used for other content: IntegrityError); SQLSTATE and hint
are in error.orig.sqlstate and error.orig.diag. A savepoint keeps your transaction usable, should you catch that inside:
without it Postgres would answer COMMIT with a rollback, and nobody would notice. An engine in AUTOCOMMIT has no
transaction to belong to: Postgres refuses the savepoint (25P01).

A table and not an entity: an entity would be read again after the commit, and the view shows nothing. It has its own
MetaData, so that neither create_all() nor Alembic take it for theirs.
"""

from uuid import UUID

from sqlalchemy import Column, Connection, DateTime, Interval, LargeBinary, MetaData, Table, Text, Uuid, insert
from sqlalchemy.dialects.postgresql import ARRAY, JSONB
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

TEXTS = "kind subject body_text body_html sender reply_to priority ordering_key dedup_key on_doubt route tenant"

notification = Table(
    "notification",
    MetaData(),
    Column("id", Uuid),  # made by Hapax
    *(Column(name, Text) for name in TEXTS.split()),
    *(Column(name, Text) for name in ("locale", "traceparent", "tracestate")),
    *(Column(name, ARRAY(Text)) for name in ("recipients", "cc", "bcc")),
    *(Column(name, JSONB(none_as_null=True)) for name in ("payload", "headers", "attachments")),
    *(Column(name, DateTime(timezone=True)) for name in ("not_before", "expires_at")),
    Column("dedup_ttl", Interval),
    Column("raw_message", LargeBinary),
    schema="outbox",
)


def enqueue(session: Session | Connection, *, recipients: list[str], **columns) -> UUID:
    # list(): a string instead of a list would else be repeated in Postgres' own error, with the address.
    statement = insert(notification).values(recipients=list(recipients), **columns).returning(notification.c.id)
    try:
        with session.begin_nested():
            return session.scalars(statement).one()
    except DBAPIError as error:
        error.hide_parameters = True  # or its text would hold the addresses
        raise
