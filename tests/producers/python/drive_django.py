"""The recipe django_backend.py in all scenarios. Settings and the order's model are the sample shop's."""

import os

SMTP = "django.core.mail.backends.smtp.EmailBackend"
OUTBOX = "django_backend.EmailBackend"
os.environ["EMAIL_BACKEND"] = OUTBOX

import shop  # noqa: E402  (it reads the environment)
from django.core.mail import EmailMessage, get_connection  # noqa: E402
from django.db import DataError, transaction  # noqa: E402

TAG = os.environ["TAG"]


def place(to, **options):
    headers = {"X-Hapax-Kind": "order_confirmed"}
    headers |= {f"X-Hapax-{name.replace('_', '-').title()}": value for name, value in options.items()}
    shop.Order.objects.create(email=f"{to}.{TAG}@example.org", total="19.90 EUR")
    message = EmailMessage("Your order", "Thank you.", to=[f"{to}.{TAG}@example.org"], headers=headers)
    message.send()
    return message.hapax_id


def commit():
    with transaction.atomic():
        return {"ids": [place("commit")]}


def rollback():
    ids = []
    try:
        with transaction.atomic():
            ids.append(place("rollback"))
            raise shop.PaymentDeclined
    except shop.PaymentDeclined:
        return {"ids": ids}


def twice():
    ids = []
    for _ in range(2):
        with transaction.atomic():
            ids.append(place("twice", dedup_key=f"{TAG}-confirmed"))
    return {"ids": ids}


def bad():
    errors = []
    try:
        with transaction.atomic():
            shop.Order.objects.create(email=f"bad.{TAG}@example.org", total="19.90 EUR")
            EmailMessage("Your order", "Thank you.", to=[f"bad.{TAG}"]).send()
    except DataError as error:
        cause = error.__cause__
        errors.append(
            {
                "sqlstate": cause.sqlstate,
                "message": cause.diag.message_primary,
                "hint": cause.diag.message_hint,
            }
        )
    with transaction.atomic():
        return {"ids": [place("after")], "errors": errors}


def send(backend):
    from letters import letters

    messages = letters()
    with transaction.atomic():
        assert get_connection(backend).send_messages(messages) == len(messages)
    return {"cases": len(messages)}


def send_smtp():
    return send(SMTP)


def send_outbox():
    return send(OUTBOX)
