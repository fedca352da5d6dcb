"""Rich messages, made of Django's own message objects; always the same ones. Each has a header X-Case."""

import os
from email.mime.application import MIMEApplication
from email.mime.image import MIMEImage
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText

from django.core.mail import EmailMessage, EmailMultiAlternatives

ADA, BOB, GRACE, HEIDI = "ada@example.org", "bob@example.org", "grace@example.org", "heidi@example.org"
IVAN, JUDY = "ivan@sub.example.org", "judy@sub.example.org"
OLIVIA, PEGGY = "olivia@example.net", "peggy@example.net"
SHOP = "Shop <no-reply@shop.example>"
BYTES = bytes(range(256)) * 40
PDF = b"%PDF-1.4\n" + BYTES + b"\r\n.\r\n%%EOF"
# The smallest PNG there is: one transparent pixel.
PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000001e221bc33"
    "0000000049454e44ae426082"
)
HTML = "<html><body><p>Grüße, <b>Ada</b>!</p></body></html>\n"


def plain(body="Thank you.\n", subject="Your order", to=(ADA,), **more):
    return EmailMessage(subject, body, SHOP, list(to), **more)


def rich(html=HTML, body="Grüße, Ada!\n", subject="Your order", to=(ADA,), **more):
    message = EmailMultiAlternatives(subject, body, SHOP, list(to), **more)
    message.attach_alternative(html, "text/html")
    return message


def image(name="logo.png"):
    part = MIMEImage(PNG, "png")
    part.add_header("Content-ID", "<logo@shop.example>")
    part.add_header("Content-Disposition", "inline", filename=name)
    return part


def with_attachments():
    message = rich(to=[BOB])
    message.attach("invoice 42.pdf", PDF, "application/pdf")
    message.attach("Rechnung für Zoë – 42.pdf", PDF, "application/pdf")
    message.attach('he said "hi" \\ and; left=1.txt', "plain text\n.\n..dots\n", "text/plain")
    message.attach(
        "日本語の名前のとても長い添付ファイルの名前です、本当に長いのです.csv", "id,näme\n1,Zoë\n", "text/csv"
    )
    message.attach("x" * 120 + ".bin", BYTES, "application/octet-stream")
    message.attach("unknown.kind-of-file", b"\x00\x01\x02")
    message.attach("empty.dat", b"", "application/octet-stream")
    message.attach("data.json", '{"é": 1}', "application/json")
    message.attach("page.html", HTML, "text/html")
    message.attach("crlf.txt", "one\r\ntwo\nthree\r\n" + "long " * 400 + "\n", "text/plain")
    message.attach("latin1.txt", "Grüße".encode("latin-1"), "text/plain")
    message.attach("archive.zip", b"PK\x05\x06" + bytes(18), "application/zip")
    message.attach(None, b"no name at all", "application/x-nameless")
    return message


def inline_alone():
    message = rich('<html><body><img src="cid:logo@shop.example" alt=""></body></html>\n')
    message.mixed_subtype = "related"
    message.attach(image())
    return message


def inline_and_attachments():
    """multipart/mixed of multipart/related (multipart/alternative, image) and a file, as people build it by hand."""
    alternative = MIMEMultipart("alternative")
    alternative.attach(MIMEText("The picture is in the HTML.\n", "plain", "utf-8"))
    alternative.attach(MIMEText('<p>Grüße <img src="cid:logo@shop.example" alt=""></p>\n', "html", "utf-8"))
    related = MIMEMultipart("related", type="multipart/alternative")
    related.attach(alternative)
    related.attach(image("Größe 1.png"))
    file = MIMEApplication(PDF, "pdf")
    file.add_header("Content-Disposition", "attachment", filename="invoice 42.pdf")
    return plain("", attachments=[related, file])


def forwarded():
    original = rich(to=[PEGGY], subject="Die ursprüngliche Nachricht", headers={"Message-ID": "<first@shop.example>"})
    original.extra_headers["Date"] = "Mon, 02 Nov 2026 10:00:00 +0000"
    original.attach("a.bin", BYTES[:300], "application/octet-stream")
    message = plain("See the attached message.\n", "Fwd: your order", [GRACE])
    message.attach("original.eml", original, "message/rfc822")
    return message


def invitation():
    message = rich(to=[HEIDI], subject="Invitation")
    event = "BEGIN:VCALENDAR METHOD:REQUEST BEGIN:VEVENT UID:1@shop.example END:VEVENT END:VCALENDAR "
    message.attach_alternative(event.replace(" ", "\r\n"), "text/calendar; method=REQUEST")
    return message


def readers():
    return rich(
        to=[
            "Ada Lovelace <ada@example.org>",
            '"Bob, the \\"Builder\\"" <bob@example.org>',
            "Ívan Ð. Žižka <ivan@sub.example.org>",
        ],
        cc=["Grace Hopper <grace@example.org>", JUDY, "Ada again <ada@example.org>"],
        bcc=["Heidi Secret <heidi@example.org>", OLIVIA],
        reply_to=["Käthe <help@shop.example>", "Second <second@shop.example>"],
    )


def headers():
    return plain(
        headers={
            "List-Unsubscribe": "<https://shop.example/u/" + "0123456789abcdef" * 8 + ">, <mailto:out@shop.example>",
            "List-Unsubscribe-Post": "List-Unsubscribe=One-Click",
            "References": " ".join(f"<reference-{n}@shop.example>" for n in range(12)),
            "In-Reply-To": "<reference-11@shop.example>",
            "X-Campaign": "Frühling 2026 – très spécial; 50 % off",
            "X-Empty": "",
            "Message-ID": "<chosen.by.the.application@shop.example>",
            "Date": "Tue, 03 Nov 2026 12:34:56 +0100",
        }
    )


def bounces():
    """Another address for bounces: Django takes from_email for the envelope and From for the header."""
    message = plain(to=[PEGGY], headers={"From": SHOP})
    message.from_email = "bounces@shop.example"
    return message


def in_latin1():
    message = rich(HTML, "Grüße aus Köln. " * 20 + "\n", "Grüße aus Köln")
    message.encoding = "iso-8859-1"
    return message


def only_html():
    message = EmailMessage("Your order", HTML, SHOP, [ADA])
    message.content_subtype = "html"
    return message


def letters():
    cases = {
        "plain": plain(),
        "html-alternative": rich(),
        "html-only": only_html(),
        "attachments": with_attachments(),
        "inline": inline_alone(),
        "inline-and-attachments": inline_and_attachments(),
        "forwarded": forwarded(),
        "invitation": invitation(),
        "readers": readers(),
        "only-bcc": plain(to=[], bcc=[BOB, PEGGY]),
        "headers": headers(),
        "bounces": bounces(),
        "subject-folded": plain(subject="Your order of many things, " + "and another thing, " * 20 + "that is all"),
        "subject-unicode": plain(subject="Ihre Bestellung über 19,90 € – schön, dass Sie da sind " * 4 + "🎉"),
        "subject-empty": plain(subject=""),
        "dots": plain(".\n..\n.hidden\n...\nlast.\n.\n"),
        "long-lines": plain("x" * 3000 + "\n" + "ä" * 3000 + "\n" + "word " * 600 + "\n"),
        "long-ascii-line": plain("y" * 3000 + "\nshort\n"),
        "line-ends": plain("unix\nwindows\r\nmac\rmixed\n\r\n\n\r\nend"),
        "from-line": plain("From the beginning\n>From again\nFrom\n"),
        "spaces": plain("trailing \ntabs\t\n  \n= equals =\n=3D\n\n\n"),
        "unicode": plain("Zoë wünscht: 日本語, עברית, 🎉 e\u0301\n"),
        "latin1": in_latin1(),
        "empty": plain(""),
        "newline": plain("\n"),
        "no-last-newline": plain("no newline at the end"),
    }
    for name, message in cases.items():
        message.extra_headers = {**message.extra_headers, "X-Case": name}
        if "KEYED" in os.environ:
            message.extra_headers["X-Hapax-Dedup-Key"] = f"{os.environ['KEYED']}-{name}"
    return list(cases.values())
