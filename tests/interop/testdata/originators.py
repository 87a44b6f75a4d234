# Reads header blocks, one a line in base64, and prints the addresses in From as
# Python's two parsers see them, parted by a tab.
import base64, email, email.policy, email.utils, sys

for line in sys.stdin:
    raw = base64.b64decode(line)
    try:
        old = [a for _, a in email.utils.getaddresses(email.message_from_string(raw.decode("utf-8", "replace")).get_all("from", [])) if a]
    except Exception:
        old = ["error"]
    try:
        new = [a.addr_spec for h in email.message_from_string(raw.decode("utf-8", "replace"), policy=email.policy.default).get_all("from", []) for a in h.addresses if a.addr_spec]
    except Exception:
        new = ["error"]
    print(" ".join(old).replace("\n", "?"), " ".join(new).replace("\n", "?"), sep="\t")
