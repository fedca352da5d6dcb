"""A small Django project in one file, with code that sends mail directly today.

    run shop order N      N orders by HTTP requests (Django's test client), one transaction each (ATOMIC_REQUESTS)

What it prints: {"placed": [ids of the committed orders], "declined": d, "failed": {"SMTPRecipientsRefused": 1, ...}}.
Nothing in it knows of the outbox. The environment alone switches it over:

    EMAIL_BACKEND       django.core.mail.backends.smtp.EmailBackend (the default) sends to 127.0.0.1:$SMTP_PORT,
                        django_backend.EmailBackend is the recipe
    DATABASE_URL, TAG   as for every driver; SMTP_PORT is read by the first backend only
    SHOP_TO             who orders, comma-separated, used in turn; default: shop1.$TAG@example.org, shop2..., one each
    SHOP_DECLINE_EVERY  n: each nth payment is declined after the mails have been sent: the transaction is rolled back

Each order sends two mails: a confirmation (text and HTML, an invoice as PDF and one as CSV attached) with the headers
X-Shop-Order: TAG/i (i from 1) and X-Shop-Mail: confirmation, and send_mail() to warehouse@example.org (SHOP_WAREHOUSE is
another address), which shows the order in its subject "Pack TAG/i" only.
"""

import os
import sys

import django
from django.conf import settings
from django.core.mail import EmailMultiAlternatives, send_mail
from django.http import JsonResponse
from django.urls import path
from psycopg.conninfo import conninfo_to_dict

TAG = os.environ["TAG"]
WAREHOUSE = os.environ.get("SHOP_WAREHOUSE", "warehouse@example.org")
DECLINE_EVERY = int(os.environ.get("SHOP_DECLINE_EVERY", "0"))


def database(url):
    parts = conninfo_to_dict(url)
    names = {"dbname": "NAME", "user": "USER", "password": "PASSWORD", "host": "HOST", "port": "PORT"}
    options = {name: value for name, value in parts.items() if name not in names}
    known = {names[name]: value for name, value in parts.items() if name in names}
    return {"ENGINE": "django.db.backends.postgresql", "ATOMIC_REQUESTS": True, "OPTIONS": options, **known}


if not settings.configured:
    settings.configure(
        SECRET_KEY="of a test",
        ALLOWED_HOSTS=["testserver"],
        ROOT_URLCONF=__name__,
        DATABASES={"default": database(os.environ["DATABASE_URL"])},
        EMAIL_BACKEND=os.environ.get("EMAIL_BACKEND", "django.core.mail.backends.smtp.EmailBackend"),
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=int(os.environ.get("SMTP_PORT", "25")),
        DEFAULT_FROM_EMAIL="Shop <no-reply@shop.example>",
        USE_TZ=True,
    )
    django.setup()

from django.db import models  # noqa: E402  (models need the settings)


class Order(models.Model):
    email = models.TextField()
    total = models.TextField()

    class Meta:
        app_label = "shop"
        db_table = "orders"
        managed = False


class PaymentDeclined(Exception):
    pass


def place_order(number, email, total):
    order = Order.objects.create(email=email, total=total)
    name = f"{TAG}/{number}"
    confirmation = EmailMultiAlternatives(
        subject=f"Your order {name}",
        body=f"Thank you. Total: {total}.\n",
        to=[email],
        headers={"X-Shop-Order": name, "X-Shop-Mail": "confirmation"},
    )
    confirmation.attach_alternative(f"<p>Thank you. Total: <b>{total}</b>.</p>\n", "text/html")
    confirmation.attach(f"Rechnung für {number}.pdf", b"%PDF-1.4\n" + bytes(range(256)) * 16, "application/pdf")
    confirmation.attach(f"invoice {number}.csv", f"order,total\n{number},{total}\n", "text/csv")
    confirmation.send()
    send_mail(f"Pack {name}", f"Order {name} is waiting.\n", None, [WAREHOUSE])
    if DECLINE_EVERY and number % DECLINE_EVERY == 0:
        raise PaymentDeclined
    return order


def order_view(request):
    form = request.POST
    placed = place_order(int(form["number"]), form["email"], "19.90 EUR")
    return JsonResponse({"order": placed.pk})


urlpatterns = [path("order", order_view)]


def order(count):
    from django.test import Client

    client, declined, placed, failed = Client(), 0, [], {}
    people = os.environ.get("SHOP_TO", "").split(",")
    for number in range(1, int(count) + 1):
        email = people[(number - 1) % len(people)] or f"shop{number}.{TAG}@example.org"
        try:
            placed.append(client.post("/order", {"number": number, "email": email}).json()["order"])
        except PaymentDeclined:
            declined += 1
        except Exception as error:  # an answer 500 in a real server
            print(f"order {number}: {error!r}", file=sys.stderr)
            failed[type(error).__name__] = failed.get(type(error).__name__, 0) + 1
    return {"placed": placed, "declined": declined, "failed": failed}
