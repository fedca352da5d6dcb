#!/usr/bin/python3
"""What two verifiers that know nothing of Hapax say of the DKIM signatures of mails: dkimpy, and OpenDKIM's library.

Standard input has a mail a line, in base64; standard output gets a JSON object for each: for each verifier a list, one
word for each signature in the order of the fields, "pass" or why not. Keys come from the file that is named, one
`SELECTOR._domainkey.DOMAIN RECORD` a line. opendkim-testmsg asks only the DNS; the library beneath it reads the file.
"""
import base64
import ctypes
import json
import sys

import dkim

LIBRARY = "libopendkim.so.11"
# opendkim/dkim.h
SETOPT, OPTS_QUERYMETHOD, OPTS_QUERYINFO = 1, 6, 7
QUERY_FILE = 1
SIGFLAG_PASSED, SIGBH_MATCH = 4, 0
FEATURE_ED25519 = 11


class OpenDkim:
    def __init__(self, records):
        self.library = library = ctypes.CDLL(LIBRARY)
        pointer = ctypes.c_void_p
        for name, answer, arguments in [
            ("dkim_init", pointer, [pointer, pointer]),
            ("dkim_options", ctypes.c_int, [pointer, ctypes.c_int, ctypes.c_int, pointer, ctypes.c_size_t]),
            ("dkim_libfeature", ctypes.c_bool, [pointer, ctypes.c_uint]),
            ("dkim_verify", pointer, [pointer, ctypes.c_char_p, pointer, ctypes.POINTER(ctypes.c_int)]),
            ("dkim_chunk", ctypes.c_int, [pointer, ctypes.c_char_p, ctypes.c_size_t]),
            ("dkim_eom", ctypes.c_int, [pointer, pointer]),
            ("dkim_getsiglist", ctypes.c_int, [pointer, pointer, pointer]),
            ("dkim_sig_process", ctypes.c_int, [pointer, pointer]),
            ("dkim_sig_getflags", ctypes.c_uint, [pointer]),
            ("dkim_sig_getbh", ctypes.c_int, [pointer]),
            ("dkim_sig_geterror", ctypes.c_int, [pointer]),
            ("dkim_sig_geterrorstr", ctypes.c_char_p, [ctypes.c_int]),
            ("dkim_free", ctypes.c_int, [pointer]),
        ]:
            function = getattr(library, name)
            function.restype, function.argtypes = answer, arguments
        self.handle = library.dkim_init(None, None)
        method = ctypes.c_int(QUERY_FILE)
        self.set(OPTS_QUERYMETHOD, method)
        self.set(OPTS_QUERYINFO, ctypes.create_string_buffer(records.encode()))
        assert library.dkim_libfeature(self.handle, FEATURE_ED25519), "it knows Ed25519"

    def set(self, option, value):
        status = self.library.dkim_options(self.handle, SETOPT, option, ctypes.byref(value), ctypes.sizeof(value))
        assert status == 0, (option, status)

    def verify(self, mail):
        library, status = self.library, ctypes.c_int(0)
        message = library.dkim_verify(self.handle, b"mail", None, ctypes.byref(status))
        assert message, status
        try:
            for piece in (mail, None):
                library.dkim_chunk(message, piece, len(piece or b""))
            library.dkim_eom(message, None)
            signatures, count = ctypes.POINTER(ctypes.c_void_p)(), ctypes.c_int(0)
            library.dkim_getsiglist(message, ctypes.byref(signatures), ctypes.byref(count))
            return [self.word(message, signatures[index]) for index in range(count.value)]
        finally:
            library.dkim_free(message)

    def word(self, message, signature):
        # The library itself stops at the first that is good.
        self.library.dkim_sig_process(message, signature)
        passed = self.library.dkim_sig_getflags(signature) & SIGFLAG_PASSED
        if passed and self.library.dkim_sig_getbh(signature) == SIGBH_MATCH:
            return "pass"
        why = self.library.dkim_sig_geterrorstr(self.library.dkim_sig_geterror(signature))
        return why.decode() if why else "it was not looked at"


class DkimPy:
    def __init__(self, records):
        with open(records, encoding="ascii") as file:
            self.records = dict(line.rstrip("\n").split(" ", 1) for line in file)

    def look(self, name, timeout=5):
        return self.records.get(name.decode().rstrip("."), "").encode()

    def verify(self, mail):
        fields = dkim.DKIM(mail).headers
        return [self.word(mail, index) for index in range(sum(name.lower() == b"dkim-signature" for name, _ in fields))]

    def word(self, mail, index):
        try:
            return "pass" if dkim.DKIM(mail).verify(idx=index, dnsfunc=self.look) else "it does not verify"
        except Exception as error:
            return repr(error)


VERIFIERS = {"dkimpy": DkimPy(sys.argv[1]), "opendkim": OpenDkim(sys.argv[1])}
for line in sys.stdin:
    mail = base64.b64decode(line)
    print(json.dumps({name: verifier.verify(mail) for name, verifier in VERIFIERS.items()}))
