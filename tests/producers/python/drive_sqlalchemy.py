"""The recipe sqlalchemy_outbox.py in the four scenarios, with an ORM session."""

import os
import re

from sqlalchemy import Identity, create_engine
from sqlalchemy.exc import DataError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, sessionmaker
from sqlalchemy_outbox import enqueue

TAG = os.environ["TAG"]
NOTIFICATION = {"kind": "order_confirmed", "subject": "Your order", "body_text": "Thank you."}

engine = create_engine(re.sub("^postgres(ql)?:", "postgresql+psycopg:", os.environ["DATABASE_URL"]))
Session = sessionmaker(engine)


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(Identity(always=True), primary_key=True)
    email: Mapped[str]
    total: Mapped[str]


class PaymentDeclined(Exception):
    pass


def place(session, to, **options):
    session.add(Order(email=to, total="19.90 EUR"))
    return enqueue(session, recipients=[to], **NOTIFICATION, **options)


def commit():
    with Session.begin() as session:
        return {"ids": [place(session, f"commit.{TAG}@example.org")]}


def rollback():
    ids = []
    try:
        with Session.begin() as session:
            ids.append(place(session, f"rollback.{TAG}@example.org"))
            raise PaymentDeclined
    except PaymentDeclined:
        return {"ids": ids}


def twice():
    ids = []
    for _ in range(2):
        with Session.begin() as session:
            ids.append(place(session, f"twice.{TAG}@example.org", dedup_key=f"{TAG}-confirmed"))
    return {"ids": ids}


def bad():
    errors = []
    try:
        with Session.begin() as session:
            session.add(Order(email=f"bad.{TAG}@example.org", total="19.90 EUR"))
            enqueue(session, recipients=[f"bad.{TAG}"], **NOTIFICATION)
    except DataError as error:
        diagnosis = error.orig.diag
        errors.append(
            {
                "sqlstate": error.orig.sqlstate,
                "message": diagnosis.message_primary,
                "hint": diagnosis.message_hint,
            }
        )
    with Session.begin() as session:
        return {"ids": [place(session, f"after.{TAG}@example.org")], "errors": errors}
