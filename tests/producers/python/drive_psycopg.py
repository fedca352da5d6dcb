"""The recipe psycopg_outbox.py in the four scenarios."""

import os

import psycopg
from psycopg_outbox import enqueue

TAG = os.environ["TAG"]
NOTIFICATION = {"kind": "order_confirmed", "subject": "Your order", "body_text": "Thank you."}


class PaymentDeclined(Exception):
    pass


def connect():
    return psycopg.connect(os.environ["DATABASE_URL"])


def order(connection, email):
    connection.execute("INSERT INTO orders (email, total) VALUES (%s, %s)", (email, "19.90 EUR"))


def place(connection, to, **options):
    with connection.transaction():
        order(connection, to)
        return enqueue(connection, recipients=[to], **NOTIFICATION, **options)


def commit():
    with connect() as connection:
        return {"ids": [place(connection, f"commit.{TAG}@example.org")]}


def rollback():
    ids = []
    with connect() as connection:
        try:
            with connection.transaction():
                ids.append(place(connection, f"rollback.{TAG}@example.org"))
                raise PaymentDeclined
        except PaymentDeclined:
            return {"ids": ids}


def twice():
    with connect() as connection:
        to, key = f"twice.{TAG}@example.org", f"{TAG}-confirmed"
        return {"ids": [place(connection, to, dedup_key=key), place(connection, to, dedup_key=key)]}


def bad():
    errors = []
    with connect() as connection:
        try:
            with connection.transaction():
                order(connection, f"bad.{TAG}@example.org")
                enqueue(connection, recipients=[f"bad.{TAG}"], **NOTIFICATION)
        except psycopg.DataError as error:
            errors.append(
                {
                    "sqlstate": error.sqlstate,
                    "message": error.diag.message_primary,
                    "hint": error.diag.message_hint,
                }
            )
        return {"ids": [place(connection, f"after.{TAG}@example.org")], "errors": errors}
