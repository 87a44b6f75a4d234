# Reads pairs of messages, each in base64, two a line, and prints for each pair
# how Python's email package sees them differ, or "same": the parts that are no
# multiparts, with their types, names and decoded content, and the fields that
# people read.
import base64, email, email.policy, itertools, sys

def text(raw):
    return raw.decode("utf-8", "surrogateescape")

def leaves(m):
    out = []
    for p in m.walk():
        if p.is_multipart():
            continue
        body = p.get_payload(decode=True)
        out.append((p.get_content_type(), body if body is not None else b""))
    return out

def fields(raw):
    out = []
    for p in email.message_from_string(text(raw), policy=email.policy.default).walk():
        for name in ("subject", "x-own", "content-description"):
            out.append((name, str(p[name]) if p[name] is not None else None))
        for name in ("from", "to"):
            if p[name] is not None:
                out.append((name, [(a.display_name, a.username, a.domain.encode("idna").decode() if a.domain else "") for a in p[name].addresses]))
        out.append(("filename", p.get_filename()))
    return out

def trimmed(ls):  # the last line of a message may have been given its end
    return [(t, b.rstrip(b"\r\n")) for t, b in ls]

for line in sys.stdin:
    before, after = (base64.b64decode(s) for s in line.split())
    a, b = leaves(email.message_from_bytes(before)), leaves(email.message_from_bytes(after))
    different = [(x, y) for x, y in itertools.zip_longest(trimmed(a) + fields(before), trimmed(b) + fields(after)) if x != y]
    print("became".join(map(repr, different[0])) if different else "same")
