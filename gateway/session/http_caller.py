"""Who sends the requests of one TLS connection, as each route sees it, and what the upstream is told about that.

Owns the comparison of the certificate with Authorization (or, for a WebSocket, with the query). Refuses, as a Refusal:
no certificate where one is required, one that is nobody's or has expired, a key that is not the certificate's, and what
no rule allows.
"""

from __future__ import annotations

import base64
import hmac
import re
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import unquote_to_bytes

from gateway.errors import Denied
from gateway.identity import Identity, from_certificate
from gateway.routes import Route
from gateway.session.http_answers import FORBIDDEN, Refusal, unauthorized
from gateway.session.vocabulary import TLSFacts
from gateway.upstream import Address
from gateway.wire.http1 import RequestHead, claims_identity, frames_otherwise

_MISMATCH = "the key in Authorization is not the certificate's"
_QUERY_MISMATCH = "the key in the query is not the certificate's"
_KEYS_DIFFER = "the keys in Authorization and in the query differ"
_SHORT = 64
# More parameters than this are not looked through for a key.
_MAX_PARAMETERS = 1000
_QUERY_SEPARATOR = re.compile(rb"([&;])")
# What may become a field's value: visible ASCII, with single spaces inside, as after a scheme word.
_KEY = re.compile(rb"[!-~]+(?: [!-~]+)*")


def ours(name: bytes) -> bool:
    """Whether only we may say that field (RFC 9440, 4; RFC 7239, 8.1), or nobody; by its lower-case name."""
    return _known_ours(name) if len(name) <= _SHORT else _ours(name)


def _ours(name: bytes) -> bool:
    # `Proxy` becomes a variable that programs take their own proxy from (CVE-2016-5385).
    return name in (b"authorization", b"proxy") or claims_identity(name) or frames_otherwise(name)


# Nearly all fields have names that come again and again; what is remembered has to be short.
_known_ours = lru_cache(maxsize=512)(_ours)


class Caller:
    """Everything here depends only on the connection and the route, so it is worked out once and kept.

    clock: seconds since the epoch.
    """

    __slots__ = ("_admitted", "_clock", "_fields", "_identities", "address", "server_name", "tls")

    def __init__(self, address: Address, tls: TLSFacts, clock: Callable[[], float]) -> None:
        self.address, self.tls, self._clock = address, tls, clock
        self.server_name = None if tls.server_name is None else tls.server_name.lower().removesuffix(".")
        self._identities: dict[tuple[str, str], Identity] = {}
        self._admitted: dict[tuple[str, bytes], tuple[Identity | None, str]] = {}
        self._fields: dict[str, bytes] = {}

    def forget(self) -> None:
        """The rules are other ones now."""
        self._admitted.clear()
        self._fields.clear()

    @property
    def expired(self) -> bool:
        return self.tls.peer_expires is not None and self.tls.peer_expires <= self._clock()

    def admit(self, route: Route, method: bytes) -> tuple[Identity | None, str]:
        """Who it is on that route, and the rule that lets it in. Raises Refusal."""
        admitted = self._admitted.get((route.name, method))
        if admitted is None:
            identity = self.identify(route)
            admitted = self._admitted[route.name, method] = (identity, self.decide(route, identity, method))
        return admitted

    def decide(self, route: Route, identity: Identity | None, method: bytes) -> str:
        """The rule that lets that one in. Raises Refusal."""
        verdict = route.admission.decide(identity, self.address.host, method.decode("ascii"))
        if not verdict.allowed:
            raise Refusal(403, FORBIDDEN, f"denied: {verdict.rule}")
        return verdict.rule

    def identity(self, route: Route) -> Identity | None:
        """Who it is on that route, whether or not it may use it; for the audit of a refusal."""
        return None if route.client == "none" else self._identities.get((route.cn, route.identity))

    def identify(self, route: Route) -> Identity | None:
        """Who it is on that route. Raises Refusal."""
        if route.client == "none":
            return None
        certificate, expires = self.tls.peer_certificate, self.tls.peer_expires
        if certificate is None or expires is None:
            if route.client == "optional":
                return None
            raise Refusal(403, "a client certificate is required here", "no client certificate")
        identity = self._identities.get((route.cn, route.identity))
        if identity is None:
            try:
                identity = from_certificate(
                    certificate, expires, self.tls.peer_issuers, cn=route.cn, source=route.identity
                )
            except Denied as denied:
                raise Refusal(403, "the client certificate names nobody", str(denied)) from None
            self._identities[route.cn, route.identity] = identity
        return identity

    # --- the key ----------------------------------------------------------------------------------------------------

    def authorization(self, route: Route, identity: Identity | None, head: RequestHead) -> bytes | None:
        """What the upstream gets as Authorization; None: nothing. Raises Refusal."""
        given = _given(head)
        if identity is None or identity.key is None:
            return given
        if given is not None:
            _compare(route, identity.key, given)
        return _spelled(route, identity.key)

    def websocket(self, route: Route, identity: Identity | None, head: RequestHead) -> tuple[bytes | None, bytes]:
        """The same for the request that opens a WebSocket, where the key may also be `?authorization=`; and the
        target that the upstream is asked for. Raises Refusal."""
        given = _given(head)
        asked, without = _query_key(head)
        if given is None and asked is None and route.ws_key and route.client != "none":
            raise _no_key()
        target = head.target if route.ws_forward_key else without
        if identity is None or identity.key is None:
            if given is not None and asked is not None and given != asked:
                raise Refusal(400, _KEYS_DIFFER)
            return given if given is not None else asked, target
        if given is not None:
            _compare(route, identity.key, given)
        if asked is not None:
            _compare(route, identity.key, asked, _QUERY_MISMATCH)
        return _spelled(route, identity.key), target

    def key(self, route: Route, identity: Identity | None, head: RequestHead, *, said: bool = False) -> bytes | None:
        """The secret key, bare, of whoever sends a request that is served here: the certificate's, or else the one that
        it says; None: it says none. said: who shows a certificate has to say its key, too. Raises Refusal."""
        given = _given(head)
        asked = _query_key(head)[0] if head.upgrade == b"websocket" else None
        if given is None and asked is None:
            if said and identity is not None:
                raise _no_key()
            return None if identity is None else identity.key
        if identity is None or identity.key is None:
            return _one(route, given, asked)
        if given is not None:
            _compare(route, identity.key, given)
        if asked is not None:
            _compare(route, identity.key, asked, _QUERY_MISMATCH)
        return identity.key

    # --- what the upstream is told ----------------------------------------------------------------------------------

    def fields(self, route: Route, host: bytes) -> bytes:
        """Header lines about the client (RFC 9110, 7.6.3; RFC 9440, 2)."""
        about = self._fields.get(route.name)
        if about is None:
            address = self.address.host.encode("ascii") or b"unix"
            about = b"X-Forwarded-For: %b\r\nX-Forwarded-Proto: https\r\nVia: 1.1 securegw\r\n" % address
            if route.client_cert and route.client != "none" and self.tls.peer_certificate is not None:
                about += b"Client-Cert: :%b:\r\n" % base64.b64encode(self.tls.peer_certificate)
            self._fields[route.name] = about
        return b"%bX-Forwarded-Host: %b\r\n" % (about, host)


def _given(head: RequestHead) -> bytes | None:
    """The one Authorization field. Two are two answers to one question."""
    found = [value for name, _, value in head.fields if name == b"authorization"]
    if len(found) > 1:
        raise Refusal(400, "there are two Authorization fields")
    return found[0] if found else None


def _compare(route: Route, key: bytes, given: bytes, mismatch: str = _MISMATCH) -> None:
    """Exactly the key, behind an accepted scheme word or none (RFC 9110, 11.4). Raises Refusal."""
    word, value = _split(given)
    # Compared in any case, so that the time tells nothing.
    equal = hmac.compare_digest(value, key)
    if not equal or word not in route.schemes:
        raise Refusal(403, mismatch, "the scheme in Authorization is not accepted" if equal else mismatch)


def _one(route: Route, given: bytes | None, asked: bytes | None) -> bytes:
    """The key that nothing but the registry can be compared with, without its scheme word. Raises Refusal."""
    said = [_split(one) for one in (given, asked) if one is not None]
    if any(word not in route.schemes for word, _ in said):
        raise unauthorized("the scheme in Authorization is not accepted")
    if said[0][1] != said[-1][1]:
        raise Refusal(400, _KEYS_DIFFER)
    return said[0][1]


def _no_key() -> Refusal:
    return Refusal(403, "the key is required, in Authorization or in ?authorization=", "no key for a WebSocket")


def _split(given: bytes) -> tuple[bytes, bytes]:
    """The scheme word, lower-case, b"" for none; and what it stands before (RFC 9110, 11.4)."""
    scheme, space, rest = given.partition(b" ")
    return (scheme.lower(), rest.lstrip(b" ")) if space else (b"", given)


def _spelled(route: Route, key: bytes) -> bytes:
    return b"%b %b" % (route.send_scheme, key) if route.send_scheme else key


def _query_key(head: RequestHead) -> tuple[bytes | None, bytes]:
    """What `authorization` is in the query, decoded once, and the target without it. Raises Refusal when it is there
    twice: servers differ in which one they take."""
    if head.query is None:
        return None, head.target
    # `;` separates for some servers, so it does here.
    pieces = _QUERY_SEPARATOR.split(head.query)
    if len(pieces) > 2 * _MAX_PARAMETERS:
        raise Refusal(400, "too many parameters in the query")
    keys, kept = [], []
    for at in range(0, len(pieces), 2):
        name, _, value = pieces[at].replace(b"+", b" ").partition(b"=")
        if unquote_to_bytes(name).strip().lower() == b"authorization":
            keys.append(unquote_to_bytes(value))
        else:
            kept.append((pieces[at - 1] if at else b"") + pieces[at])
    if len(keys) > 1:
        raise Refusal(400, "authorization is in the query twice")
    if not keys:
        return None, head.target
    if not _KEY.fullmatch(keys[0]):
        raise Refusal(400, "authorization in the query is not a key")
    query = b"".join(kept).lstrip(b"&;")
    return keys[0], head.path + (b"?" + query if query else b"")
