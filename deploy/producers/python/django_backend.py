"""An email backend for Django: what is sent inside atomic() leaves if the transaction commits, and only then.

    EMAIL_BACKEND = "shop.django_backend.EmailBackend"    # wherever this file lies
    HAPAX_DATABASE = "default"                            # alias of the database with the schema outbox
    HAPAX_KIND = "email"                                  # kind of messages without X-Hapax-Kind

Writes the finished message through the application's own connection; outside of atomic() (autocommit) at once.
Arguments of the outbox are headers: {"X-Hapax-Dedup-Key": "order-42"}. message.hapax_id is the id.

What is refused raises DataError, a dedup key used for other content IntegrityError; __cause__ has SQLSTATE and hint. A
savepoint keeps your transaction usable, should you catch that inside atomic(): without it Postgres would answer COMMIT
with a rollback, unnoticed. fail_silently logs and leaves out what is refused; other errors concern more than a message.
"""

import copy
import logging
from email.utils import parseaddr

from django.conf import settings
from django.core.mail.backends.base import BaseEmailBackend
from django.db import DataError, IntegrityError, connections, transaction

ARGUMENTS = "kind dedup-key dedup-ttl priority not-before expires-at ordering-key on-doubt route tenant"
HEADERS = {f"x-hapax-{name}": name.replace("-", "_") for name in ARGUMENTS.split()}


def bare(address):
    """An address without its name. What is not exactly one address stays as it is, for the outbox to refuse."""
    found = parseaddr(str(address))[1]
    return found if str(address).endswith(f"<{found}>") else str(address)


class EmailBackend(BaseEmailBackend):
    def __init__(self, fail_silently=False, **kwargs):
        super().__init__(**kwargs)
        self.fail_silently = fail_silently

    def send_messages(self, email_messages):
        using, sent = getattr(settings, "HAPAX_DATABASE", "default"), 0
        with transaction.atomic(using):  # all of them or none
            for message in [message for message in email_messages or () if message.recipients()]:
                try:
                    with transaction.atomic(using, savepoint=self.fail_silently):
                        message.hapax_id = self.enqueue(message, connections[using])
                    sent += 1
                except (DataError, IntegrityError) as error:
                    if not self.fail_silently:
                        raise
                    reason = str(error).partition("\n")[0]
                    logging.getLogger(__name__).error("message left out: %s", reason, stack_info=True)
        return sent

    def enqueue(self, message, connection):
        arguments = {"kind": getattr(settings, "HAPAX_KIND", "email"), "sender": bare(message.from_email)}
        arguments["recipients"] = list(dict.fromkeys(map(bare, message.recipients())))
        mail = copy.copy(message)  # the application's own object keeps its headers
        mail.extra_headers = {}
        for name, value in message.extra_headers.items():
            if not name.lower().startswith("x-hapax-"):
                mail.extra_headers[name] = value
            elif name.lower() in HEADERS:
                arguments[HEADERS[name.lower()]] = value
            else:
                raise ValueError(f"{name} is no argument of the outbox; there are {', '.join(HEADERS)}")
        mime = mail.message()  # Django 6: mail.message(policy=email.policy.SMTP)
        for name in {"message-id", "date"} - {name.lower() for name in mail.extra_headers}:
            del mime[name]  # made by Django; Hapax makes its own
        del mime["bcc"]
        arguments["raw_message"] = mime.as_bytes()
        call = ", ".join(f"{name} => %s" for name in arguments)
        with connection.cursor() as cursor:
            cursor.execute(f"SELECT outbox.enqueue({call})", list(arguments.values()))
            return cursor.fetchone()[0]
