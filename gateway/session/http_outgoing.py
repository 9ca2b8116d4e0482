"""Where a request goes, and as what an upstream gets it: its head, written anew from what was parsed and was decided.

Owns which fields are ours to say. Refuses a path that no route has, and a WebSocket where the route takes none.
"""

from __future__ import annotations

from gateway.errors import ProtocolError
from gateway.identity import Identity
from gateway.routes import Route, Routes
from gateway.session.http_answers import FORBIDDEN, Refusal
from gateway.session.http_caller import Caller, ours
from gateway.session.http_exchange import Outgoing
from gateway.session.vocabulary import Asked, Dial, Passage
from gateway.wire import websocket
from gateway.wire.http1 import CHUNKED, RequestHead


def find_route(routes: Routes, head: RequestHead) -> Route:
    """Raises Refusal."""
    # `*` asks about the server as a whole (RFC 9110, 9.3.7).
    path = "/" if head.path == b"*" else head.path.decode("ascii")
    try:
        route = routes.find(head.hostname, path)
    except ProtocolError as error:
        raise Refusal(400, "servers would read this path in different ways", str(error)) from None
    if route is None:
        raise Refusal(404, "there is nothing here", "no route")
    return route


def outgoing(
    caller: Caller, route: Route, identity: Identity | None, head: RequestHead, asked: Asked, passage: Passage
) -> Outgoing:
    """Raises Refusal, `http1.Refused`."""
    key, target = None, head.target
    if head.upgrade == b"websocket":
        if not route.websocket:
            raise Refusal(403, FORBIDDEN, "this route takes no WebSockets")
        key = websocket.check_request(head)
        authorization, target = caller.websocket(route, identity, head)
    else:
        authorization = caller.authorization(route, identity, head)
    if route.base is not None:
        target = _rebased(route.base, route.path, target)
    host = head.host if route.keep_host else str(route.upstream.addresses[0]).encode("ascii")
    lines = [b"%b %b HTTP/1.1\r\nHost: %b\r\n" % (head.method, target, host)]
    lines += [b"%b: %b\r\n" % (name, value) for lower, name, value in head.fields if not ours(lower)]
    if authorization is not None:
        lines.append(b"Authorization: %b\r\n" % authorization)
    lines += (caller.fields(route, head.host), _framing(head, key))
    upstream = route.upstream
    dials = tuple(Dial(upstream, one, name=(upstream.name, str(one))) for one in upstream.addresses)
    return Outgoing(route, head, b"".join(lines), dials, asked, passage, _shared(authorization), key)


def _shared(authorization: bytes | None) -> bool:
    """These schemes prove the identity of a connection, not of a request (RFC 4559, 6)."""
    return authorization is None or not authorization.lower().startswith((b"nego", b"ntlm", b"kerberos"))


def _rebased(base: str, path: str, target: bytes) -> bytes:
    """The route's prefix gives way to the path in the upstream's URL."""
    rest = target.removeprefix(path.encode("ascii"))
    if target == b"*":
        return target
    if rest[:1] == b"/":
        # One slash: behind an empty base two of them would be the beginning of a host (RFC 3986, 3.3).
        return b"%b/%b" % (base.encode("ascii"), rest.lstrip(b"/"))
    return (base or "/").encode("ascii") + rest


def _framing(head: RequestHead, key: bytes | None) -> bytes:
    """How the body and the connection go on from here (RFC 9112, 6 and 9.1)."""
    if key is not None:
        return b"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
    lines = b"TE: trailers\r\nConnection: TE\r\n" if head.te_trailers else b""
    if head.expect:
        lines += b"Expect: 100-continue\r\n"
    if head.length == CHUNKED:
        return lines + b"Transfer-Encoding: chunked\r\n\r\n"
    if head.length or head.method in (b"POST", b"PUT", b"PATCH"):
        return lines + b"Content-Length: %d\r\n\r\n" % head.length
    return lines + b"\r\n"
