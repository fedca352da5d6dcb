#!/usr/bin/python3
"""Mails as Python's own `email` sees them: one JSON object for each file named on standard input, in the same order.

Nothing is repaired here. Two things are done in front of the library, both for RFC 6532 (raw UTF-8 in header fields, which
SMTPUTF8 mail has), which the library writes but does not read: field values are decoded as UTF-8 before its parsers for
each field see them; and unknown fields are parsed as unstructured text, which is what it does itself.
"""
import email
import email.policy
import hashlib
import json
import re
import sys

POLICY = email.policy.default


def field(name, value):
    """One parsed field, from its raw value."""
    value = value.encode("ascii", "surrogateescape").decode("utf-8", "replace")
    # Unfolding: only the line ends go (RFC 5322 section 2.2.3). An empty line in a folded field cannot be.
    return POLICY.header_factory(name, re.sub("\r?\n", "", value).lstrip(" \t"))


def addresses(fields, name):
    return [[one.display_name, one.addr_spec] for value in fields.get(name, []) for one in value.addresses]


def text(part):
    content = part.get_content().replace("\r\n", "\n").replace("\r", "\n")
    return content[:-1] if content.endswith("\n") else content


def parameters(part, name):
    """The parameters of a field of a part, RFC 2231 decoded."""
    raw = [value for key, value in part.raw_items() if key.lower() == name]
    return dict(field(name, raw[0]).params) if raw else {}


def disposition(part):
    raw = [value for key, value in part.raw_items() if key.lower() == "content-disposition"]
    return field("content-disposition", raw[0]).content_disposition if raw else None


def tree(part, seen):
    """The tree of media types; the leaves go into `seen`."""
    media_type = part.get_content_type()
    if part.is_multipart() and media_type != "message/rfc822":
        return "%s(%s)" % (media_type, ",".join(tree(child, seen) for child in part.iter_parts()))
    key = {"text/plain": "text", "text/html": "html"}.get(media_type)
    how = disposition(part)
    if key and how is None and seen[key] is None:
        seen[key] = text(part)
        return media_type
    content = b"" if media_type == "message/rfc822" else part.get_payload(decode=True)
    about = parameters(part, "content-type")
    content_id = part.get("content-id")
    seen["attachments"].append({
        "name": parameters(part, "content-disposition").get("filename"),
        "type": media_type,
        "parameters": about,
        "disposition": how,
        "content_id": content_id.strip().strip("<>") if content_id else None,
        "sha256": "%d bytes %s" % (len(content), hashlib.sha256(content).hexdigest()),
    })
    return media_type


def read(path):
    with open(path, "rb") as file:
        message = email.message_from_binary_file(file, policy=POLICY)
    fields, names = {}, []
    for name, value in message.raw_items():
        names.append(name)
        fields.setdefault(name.lower(), []).append(field(name, value))
    seen = {"text": None, "html": None, "attachments": []}
    seen["tree"] = tree(message, seen)
    seen["fields"] = names
    subject = fields.get("subject")
    seen["subject"] = str(subject[0]) if subject else None
    for key in ("from", "to", "cc", "reply-to"):
        seen[key.replace("-", "_")] = addresses(fields, key)
    known = set("from to cc reply-to bcc sender content-type content-disposition".split())
    seen["headers"] = {name: [str(one) for one in values] for name, values in fields.items() if name not in known}
    # What the library found wrong with the message's structure, its encodings, and the fields everybody reads.
    parts = list(message.walk())
    defects = [repr(defect) for part in parts for defect in part.defects]
    defects += [repr(d) for key in ("from", "to", "cc", "reply-to", "content-type") for f in fields.get(key, []) for d in f.defects]
    # A local part that is not ASCII is none: it is what SMTPUTF8 is for (RFC 6532 section 3.2).
    seen["defects"] = [defect for defect in defects if not defect.startswith("NonASCIILocalPartDefect")]
    return seen


for line in sys.stdin:
    try:
        print(json.dumps(read(line.rstrip("\n"))))
    except Exception as error:  # so that the one mail is named that could not be read
        print(json.dumps({"error": repr(error)}))
