"""An email backend for Django: mail that is sent inside a transaction leaves if the transaction commits, and only then.

    EMAIL_BACKEND = "shop.django_backend.EmailBackend"    # wherever you put this file
    HAPAX_DATABASE = "default"                            # alias of the database that has the schema outbox
    HAPAX_KIND = "email"                                  # kind of messages that name none by X-Hapax-Kind

send_mail(), EmailMessage.send() and all else that uses the default connection then write the finished message through
the application's own connection: together with the order inside atomic(), at once outside of it (autocommit). The
argument dedup_key travels as headers={"X-Hapax-Dedup-Key": ...}, the others alike; message.hapax_id is the id.

What is refused raises django.db.DataError (dedup_key used for other content: IntegrityError), SQLSTATE and hint are in
its __cause__. A savepoint keeps your transaction usable, should you catch that: without it Postgres would answer COMMIT
with a rollback, and nobody would notice. fail_silently leaves out and logs what the outbox refuses; other errors (no
connection, a deadlock) are raised all the same, because they are about your transaction, not about the message.
"""

import copy
import logging
from email.utils import parseaddr

from django.conf import settings
from django.core.mail.backends.base import BaseEmailBackend
from django.db import DataError, IntegrityError, connections, transaction

ARGUMENTS = ("kind", "dedup_key", "dedup_ttl", "priority", "not_before", "expires_at", "ordering_key", "on_doubt",
             "route", "tenant")  # fmt: skip
HEADERS = {"x-hapax-" + name.replace("_", "-"): name for name in ARGUMENTS}


def bare(address):
    """"Ada <ada@example.org>" without the name; what is not exactly one address stays, for the outbox to refuse."""
    text = str(address)
    found = parseaddr(text)[1]
    return found if text.endswith(f"<{found}>") else text


class EmailBackend(BaseEmailBackend):
    def __init__(self, fail_silently=False, **kwargs):
        super().__init__(**kwargs)
        self.fail_silently = fail_silently

    def send_messages(self, email_messages):
        using, sent = getattr(settings, "HAPAX_DATABASE", "default"), 0
        with transaction.atomic(using):  # all of them or none
            for message in filter(lambda message: message.recipients(), email_messages):
                try:
                    with transaction.atomic(using, savepoint=self.fail_silently):
                        message.hapax_id = self.enqueue(message, using)
                    sent += 1
                except (DataError, IntegrityError):
                    if not self.fail_silently:
                        raise
                    logging.getLogger(__name__).exception("the outbox refused a message")
        return sent

    def enqueue(self, message, using):
        recipients = list(dict.fromkeys(map(bare, message.recipients())))
        arguments = {"kind": getattr(settings, "HAPAX_KIND", "email"), "recipients": recipients}
        arguments["sender"] = bare(message.from_email)
        mail = copy.copy(message)  # the application's own object keeps its headers
        mail.extra_headers = {}
        for name, value in message.extra_headers.items():
            if not name.lower().startswith("x-hapax-"):
                mail.extra_headers[name] = value
            elif name.lower() in HEADERS:
                arguments[HEADERS[name.lower()]] = value
            else:
                raise ValueError(f"{name} is no argument of the outbox; there are {', '.join(HEADERS)}")
        mime = mail.message()
        for name in {"message-id", "date", "bcc"} - {name.lower() for name in mail.extra_headers}:
            del mime[name]  # Django's own; Hapax makes them
        arguments["raw_message"] = mime.as_bytes()
        with connections[using].cursor() as cursor:
            named = ", ".join(f"{name} => %s" for name in arguments)
            cursor.execute(f"SELECT outbox.enqueue({named})", list(arguments.values()))
            return cursor.fetchone()[0]
