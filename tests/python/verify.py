"""Checks protem credentials with cryptography and the standard library: an example to copy, held to tests/vectors/tokens.json.

Reads the vectors on stdin and prints, for each case, its name, a tab, and `allow` or the code of the first check that failed.
docs/verifying.md says why each check is there.
"""

import base64
import json
import re
import sys
import unicodedata
from urllib.parse import unquote_to_bytes

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

TOKEN_MAX = 8 * 1024
NUMBER_MAX = 2**53 - 1
SECONDS_MAX = 253_402_300_799
LIFE_MAX = 86_400
LEEWAY = 5

NAME = re.compile(r"[a-z0-9][a-z0-9._/-]*")
SCOPE = re.compile(r"[a-z0-9][a-z0-9._/:-]*")
TOKEN_ID = re.compile(r"(gr_[0-9a-z]{26})\.(0|[1-9][0-9]{0,9})")


class Refused(Exception):
    """The credential does not count; the code says why."""


def need(holds, code="PT-0402"):
    if not holds:
        raise Refused(code)


def part(text):
    """Unpadded base64url in its one spelling: Python's own decoder passes over what is no letter of it."""
    need(re.fullmatch(r"[A-Za-z0-9_-]*", text) and len(text) % 4 != 1)
    found = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    need(base64.urlsafe_b64encode(found).rstrip(b"=").decode() == text)
    return found


def strict(text):
    """JSON in which no member is named twice and each number is whole: other readers would guess differently."""

    def members(pairs):
        found = dict(pairs)
        need(len(found) == len(pairs))
        return found

    def whole(digits):
        need(not digits.startswith("-") and len(digits) <= 16 and int(digits) <= NUMBER_MAX)
        return int(digits)

    def never(_):
        raise Refused("PT-0402")

    try:
        return json.loads(
            text.decode("utf-8"), object_pairs_hook=members, parse_int=whole, parse_float=never, parse_constant=never
        )
    except (ValueError, RecursionError) as why:
        raise Refused("PT-0402") from why


def take(members, name, kind):
    value = members.pop(name, None)
    need(type(value) is kind)  # a bool is an int to isinstance
    return value


def claims_of(payload):
    """A closed set of claims: what is missing, of another type, or unknown makes it no credential."""
    left = strict(payload)
    need(type(left) is dict)
    about = take(left, "protem", dict)
    claims = {name: take(left, name, str) for name in ("iss", "sub", "client_id", "jti", "scope", "aud")}
    claims |= {name: take(left, name, int) for name in ("iat", "nbf", "exp")}
    claims |= {name: take(about, name, str) for name in ("grant", "task")}
    claims |= {name: take(about, name, int) for name in ("seq", "until", "epoch", "fresh")}
    need(not about and claims["iss"] and claims["sub"] and claims["aud"] and claims["task"])
    need(all(1 <= claims[name] <= SECONDS_MAX for name in ("iat", "nbf", "exp", "until")))
    need(1 <= claims["fresh"] <= 60 and NAME.fullmatch(claims["client_id"]))
    scopes = claims["scope"].split(" ")
    need(all(SCOPE.fullmatch(scope) for scope in scopes) and len(set(scopes)) == len(scopes))
    token_id = TOKEN_ID.fullmatch(claims["jti"])
    need(token_id and token_id[1] == claims["grant"])
    need(0 < claims["exp"] - claims["iat"] <= LIFE_MAX and claims["nbf"] < claims["exp"] <= claims["until"])
    claims["bound"] = "cnf" in left
    if claims["bound"]:
        (kind, value), *more = take(left, "cnf", dict).items() or [("", "")]
        need(not more and kind in ("jkt", "x5t#S256") and type(value) is str and len(part(value)) == 32)
    if "status" in left:
        outer = take(left, "status", dict)
        entry = take(outer, "status_list", dict)
        take(entry, "idx", int), take(entry, "uri", str)
        need(not outer and not entry)
    # What a resource's template adds has a `/` in its name.
    need(len(left) <= 32 and all("/" in name and type(value) is str for name, value in left.items()))
    claims["scopes"] = scopes
    return claims


def canonical(path):
    """The path without its query, if every server reads it alike."""
    path = path.split("?")[0]
    need(path.startswith("/") and len(path) <= 4096 and "//" not in path, "PT-0415")
    need(re.fullmatch(r"[!-~]*", path) and not re.search(r'[\\;#"<>^`|{}]', path), "PT-0415")
    need(not any(piece in (".", "..") for piece in path.split("/")), "PT-0415")
    for escape in re.findall(r"%.{0,2}", path):
        need(re.fullmatch(r"%[0-9A-Fa-f]{2}", escape), "PT-0415")
        # What needs no escape, and what a server could read as structure.
        need(not re.fullmatch(r"[A-Za-z0-9._~%/\\;?#-]", chr(int(escape[1:], 16))), "PT-0415")
    # An overlong form of a dot is a dot to some, and a control character ends a line or a text for others.
    try:
        text = unquote_to_bytes(path).decode("utf-8")
    except UnicodeDecodeError as why:
        raise Refused("PT-0415") from why
    need(not any(unicodedata.category(letter) == "Cc" for letter in text), "PT-0415")
    return path


def allowing(resource, method, path):
    """The scopes that allow an operation; of templates that overlap the most specific counts alone.

    Nothing allows what a router that does not tell `a` from `A` could take for a more specific operation.
    """
    pieces, best, scopes, closest = path.split("/")[1:], None, [], None
    for name, scope in resource["scopes"].items():
        for operation in scope["operations"]:
            verb, template = operation.split(" ")
            template = template.split("/")[1:]
            fits = verb == method and len(template) == len(pieces)
            like = [t.lower() == p.lower() or (t.startswith("{") and p) for t, p in zip(template, pieces)]
            if not fits or not all(like):
                continue
            # A literal goes before a parameter, from the left.
            shape = [piece.startswith("{") for piece in template]
            closest = shape if closest is None else min(closest, shape)
            if not all(t == p or (t.startswith("{") and p) for t, p in zip(template, pieces)):
                continue
            if best is None or shape < best:
                best, scopes = shape, []
            if shape == best:
                scopes.append(name)
    return scopes if closest == best else []


def covers(cut, claims, resource):
    """Whether a credential is void by a cut-off: its place in the journal counts, never a clock."""
    if "key_id" in cut or claims["seq"] > cut["seq"]:
        return False
    if "identity" in cut:
        return cut["identity"] == claims["client_id"]
    if "task" in cut:
        return cut["task"] == f"{claims['client_id']}#{claims['task']}"
    if "resource" in cut:
        return cut["resource"] == resource
    if "scope" in cut:
        return cut["scope"] in [f"{resource}#{scope}" for scope in claims["scopes"]]
    return True  # of everything, or of what is not known here


def check(token, method, path, view):
    """Raises Refused unless this credential allows this call now, by what the view knows."""
    need(len(token) <= TOKEN_MAX and token.count(".") == 2)
    header, payload, signature = token.split(".")
    members = strict(part(header))
    need(type(members) is dict and set(members) == {"typ", "alg", "kid"})
    need(members["typ"] == "at+jwt" and members["alg"] in ("EdDSA", "Ed25519") and type(members["kid"]) is str)
    signature, payload_bytes = part(signature), part(payload)
    need(len(signature) == 64)
    # Before all else of the key: it leaves the key set, and its holder is helped by another reason than a stranger.
    need(all(cut.get("key_id") != members["kid"] for cut in view["cut_offs"]), "PT-0411")
    # The key fixes the algorithm; the token only names the key.
    keys = {key["kid"]: key for key in view["jwks"]["keys"] if key["kty"] == "OKP" and key["crv"] == "Ed25519"}
    need(members["kid"] in keys, "PT-0403")
    try:
        key = Ed25519PublicKey.from_public_bytes(part(keys[members["kid"]]["x"]))
        key.verify(signature, f"{header}.{payload}".encode())
    except InvalidSignature as why:
        raise Refused("PT-0404") from why
    claims = claims_of(payload_bytes)
    resource = view["catalog"]["resources"][view["resource"]]
    need(claims["iss"] == view["issuer"], "PT-0405")
    need(claims["aud"] == resource["audience"], "PT-0406")
    need(claims["epoch"] <= view["epoch"], "PT-0418")
    need(claims["epoch"] == view["epoch"], "PT-0409")
    need(view["age_ms"] <= claims["fresh"] * 1000, "PT-0417")
    need(view["now"] < claims["exp"], "PT-0407")  # no leeway
    need(max(claims["nbf"], claims["iat"]) <= view["now"] + LEEWAY, "PT-0408")
    need(not claims["bound"], "PT-0412")
    need(claims["grant"] not in view["ended_grants"], "PT-0410")
    need(not any(covers(cut, claims, view["resource"]) for cut in view["cut_offs"]), "PT-0410")
    scopes = allowing(resource, method, canonical(path))
    need(scopes, "PT-0414")
    need(set(scopes) & set(claims["scopes"]), "PT-0413")


def main():
    view = json.load(sys.stdin)
    for case in view["cases"]:
        try:
            check(case["token"], case["method"], case["path"], view | case)
            said = "allow"
        except Refused as why:
            said = str(why)
        print(f"{case['name']}\t{said}")


if __name__ == "__main__":
    main()
