"""Talks to the server as Python's smtplib does, and checks what it answers."""
import email.message
import email.policy
import smtplib
import ssl
import sys

mx, submission, submissions, root, user, password = sys.argv[1:]
name = "mx.example.test"
context = ssl.create_default_context(cafile=root)
assert context.check_hostname and context.verify_mode == ssl.CERT_REQUIRED


class Plain(smtplib.SMTP):
    """Connects to the loopback address and verifies the server's name."""

    def __init__(self, port):
        super().__init__("127.0.0.1", int(port), local_hostname="client.test", timeout=30)
        self._host = name


class TLS(smtplib.SMTP_SSL):
    def _get_socket(self, host, port, timeout):
        self._host = name
        return super()._get_socket(host, port, timeout)

    def __init__(self, port):
        super().__init__("127.0.0.1", int(port), local_hostname="client.test", timeout=30, context=context)


def message(subject, to=user, sender=user, body="hello\n"):
    m = email.message.EmailMessage()
    m["From"], m["To"], m["Subject"] = sender, to, subject
    m.set_content(body)
    return m


# Many messages, and commands between them, in one session.
with Plain(mx) as s:
    for i in range(20):
        assert s.send_message(message("one of many %d" % i)) == {}
        if i % 5 == 0:
            assert s.noop()[0] == 250
            assert s.rset()[0] == 250
    assert s.has_extn("pipelining") and s.has_extn("8bitmime") and s.has_extn("smtputf8") and s.has_extn("enhancedstatuscodes")
    assert int(s.esmtp_features["size"]) > 1 << 20
    assert not s.has_extn("auth")
    assert s.verify("alice")[0] in (252, 502), s.verify("alice")
    assert s.docmd("HELP")[0] in (214, 502)
    # Some are refused, the others get it.
    refused = s.sendmail("bob@elsewhere.test", ["x@elsewhere.test", user], b"Subject: after a refusal\r\n\r\nhello\r\n")
    assert list(refused) == ["x@elsewhere.test"] and refused["x@elsewhere.test"][0] == 550, refused
    try:
        s.sendmail("bob@elsewhere.test", ["x@elsewhere.test"], b"Subject: lost\r\n\r\nhello\r\n")
        raise SystemExit("it relays")
    except smtplib.SMTPRecipientsRefused:
        pass

# STARTTLS, then all that it forbids to keep.
with Plain(mx) as s:
    s.ehlo()
    assert s.starttls(context=context)[0] == 220
    s.ehlo()
    assert not s.has_extn("starttls")
    assert s.docmd("STARTTLS")[0] >= 500
    eight = "Subject: eight bits\r\nMIME-Version: 1.0\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Transfer-Encoding: 8bit\r\n\r\nschöne Grüße\r\n"
    s.sendmail("bob@elsewhere.test", [user], eight.encode(), ["BODY=8BITMIME"])

# Addresses and headers in UTF-8.
with Plain(mx) as s:
    m = message("Grüße aus Köln", "Jürgen <jürgen@example.test>", "jürgen@example.test", "schön\n")
    assert s.send_message(m) == {}

for mech in ("PLAIN", "LOGIN"):
    with Plain(submission) as s:
        s.starttls(context=context)
        s.ehlo()
        s.user, s.password = user, password
        s.auth(mech, getattr(s, "auth_" + mech.lower()))
        assert s.send_message(message(mech + " over STARTTLS")) == {}
    with TLS(submissions) as s:
        s.ehlo()
        s.user, s.password = user, password
        s.auth(mech, getattr(s, "auth_" + mech.lower()), initial_response_ok=False)
        assert s.send_message(message(mech + " over TLS")) == {}

with TLS(submissions) as s:
    try:
        s.login(user, "wrong")
        raise SystemExit("any password will do")
    except smtplib.SMTPAuthenticationError as e:
        assert e.smtp_code == 535, e
    s.login(user, password)
    assert s.docmd("AUTH", "PLAIN")[0] == 503  # RFC 4954, section 4: once
    assert s.send_message(message("after a wrong password")) == {}

with Plain(submission) as s:
    try:
        s.login(user, password)
        raise SystemExit("a password went over the wire in clear text")
    except smtplib.SMTPNotSupportedError:
        pass
print("done")
