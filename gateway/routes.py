"""Which route an HTTP request takes: by listener, host and path, and what the route asks of its clients.

Owns the choice and the reading of a path for it. Refuses a path that a server behind us could read as another route's:
one that decodes percents (once or twice), takes an encoded slash for a slash, merges slashes, drops `;parameters`,
resolves dot segments, in whichever order, or takes what follows `//` for a host.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from urllib.parse import unquote

from gateway.admission import Admission
from gateway.errors import ProtocolError
from gateway.upstream import Upstream


@dataclass(frozen=True, slots=True)
class Route:
    """One `[route:NAME]`.

    listeners: names of `[https:NAME]`.
    hosts: lower-case names; `*.example.org` is any one label more; empty: every host.
    path: the prefix, of whole segments, without a final slash; empty: every path.
    upstream: its `name` is `route:NAME`. base: takes the place of `path` in what the upstream is asked for; None: the
    path goes as it came. keep_host: the upstream sees the client's Host, else its own (first) address.
    client: whether a certificate is `"required"`, `"optional"` or `"none"` is looked at.
    cn: `"key"`: the certificate's CN is a secret that Authorization has to repeat; `"id"`: the certificate names the
    client, and Authorization is the upstream's business. identity: where an id stands: `"cn"`, `"uri"`, `"dns"`,
    `"email"`.
    schemes: accepted before the key in Authorization, lower-case, b"" for none. send_scheme: what goes before it
    upstream.
    client_cert: tell the upstream the certificate (Client-Cert, RFC 9440).
    websocket: whether WebSockets may be opened. ws_key: they need the key in a header or in the query, too.
    ws_forward_key: leave the key in the query that the upstream sees.
    response_timeout: seconds in which the upstream has to say something.
    serve: `"upstream"`, or what the gateway itself serves below the path: `"channels"`, by POST and by WebSocket, or
    `"mqtt"` over WebSocket. mqtt: the NAME of the `[mqtt:NAME]` that this leads to.
    """

    name: str
    listeners: tuple[str, ...]
    hosts: tuple[str, ...]
    path: str
    upstream: Upstream
    admission: Admission
    base: str | None = None
    keep_host: bool = True
    client: str = "required"
    cn: str = "key"
    identity: str = "cn"
    schemes: frozenset[bytes] = frozenset({b"", b"thing", b"client", b"bearer"})
    send_scheme: bytes = b""
    client_cert: bool = True
    websocket: bool = False
    ws_key: bool = True
    ws_forward_key: bool = False
    response_timeout: float = 60.0
    serve: str = "upstream"
    mqtt: str = ""


def clashes(routes: tuple[Route, ...]) -> Iterator[tuple[Route, Route]]:
    """Pairs of routes between which nothing could choose: they share a listener, a host and the path."""
    taken: dict[tuple[str, str, str], Route] = {}
    for route in routes:
        keys = [(listener, host, route.path) for listener in route.listeners for host in route.hosts or ("",)]
        others = [taken.setdefault(key, route) for key in keys]
        clash = next((other for other in others if other is not route), None)
        if clash is not None:
            yield clash, route


# --- paths ------------------------------------------------------------------------------------------------------------

# The characters of a segment (RFC 3986, 3.3) that nobody decodes or cuts at: all but `%` and `;`.
_SEGMENT: Final = r"(?!\.{1,2}(?:/|\Z))[A-Za-z0-9._~!$&'()*+,=:@-]+"

# One reading only. The final slash is common, and empties nothing that a route could name.
_PLAIN: Final = re.compile(rf"(?=/)(?:/{_SEGMENT})*/?")

_PREFIX: Final = re.compile(rf"(?:/{_SEGMENT})*")

_DOTS: Final = re.compile(r"/\.{1,2}(?:[/;?#]|\Z)")

# C0, DEL, C1, and the slash of some file systems.
_FORBIDDEN: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\\]")

# Parameters; and, for who decodes before looking for them, a query or a fragment.
_CUT: Final = re.compile(r"[;?#][^/]*")


def parse_prefix(text: str) -> str:
    """A route's path; ValueError for one that could not be told from another by every server."""
    prefix = "" if text == "/" else text
    if not _PREFIX.fullmatch(prefix):
        raise ValueError("is not a path such as /things: plain segments, no final slash, nothing encoded")
    return prefix


def _fullest(path: str) -> str:
    """That path with all decoded, cut off and merged that any server might. Raises ProtocolError for what no route has.

    Segments of a route's prefix are plain: they stay what they are in every reading. So a path matches more of them
    the further it is read, and if the fullest reading finds no other route than the raw path, none in between does.
    That needs a cut to end at the same slash in all of them, so `;` beside an encoded slash is refused.
    """
    if not path.startswith("/"):
        raise ProtocolError("the path does not begin with a slash")
    text = _decoded(path)
    if _FORBIDDEN.search(text):
        raise ProtocolError("the path has a backslash or a control character")
    if _DOTS.search(text):
        raise ProtocolError("the path has a dot segment")
    if ";" in text and text.count("/") != path.count("/"):
        raise ProtocolError("the path has parameters beside an encoded slash")
    cut = _CUT.sub("", text)
    if cut.startswith("//"):
        # RFC 3986, 3.3: a reader of URLs takes what follows for a host, and only what follows that for the path.
        raise ProtocolError("the path begins with two slashes")
    return re.sub("//+", "/", cut)


def _decoded(path: str) -> str:
    """Decoded until nothing is left to decode: a proxy behind us may decode, and the server behind that once more."""
    for _ in range(3):
        try:
            text = unquote(path, errors="strict")
        except UnicodeDecodeError:
            # An overlong form (C0 AF) is a slash to some decoders (RFC 3629, section 10).
            raise ProtocolError("the path is not UTF-8") from None
        if text == path:
            return text
        path = text
    raise ProtocolError("the path is encoded more than twice")


# A prefix with its slash at the end, and its route.
_Table = list[tuple[str, Route]]


class Routes:
    """The routes of one listener."""

    def __init__(self, routes: tuple[Route, ...]) -> None:
        self.routes = routes
        self._exact: dict[str, _Table] = {}
        self._wildcard: dict[str, _Table] = {}
        self._any: _Table = []
        for route in sorted(routes, key=lambda route: len(route.path), reverse=True):
            for table in self._tables(route):
                table.append((route.path + "/", route))

    def _tables(self, route: Route) -> Iterator[_Table]:
        if not route.hosts:
            yield self._any
        for host in route.hosts:
            if host.startswith("*."):
                yield self._wildcard.setdefault(host[2:], [])
            else:
                yield self._exact.setdefault(host, [])

    def find(self, host: str, path: str) -> Route | None:
        """The route of that lower-case host (without port) and raw path, or None. Of several an exact host wins over a
        wildcard, that over none; then the longest prefix.

        Raises ProtocolError for a path that servers read differently: with dot segments, or whose route depends on how
        much of it is decoded, merged or cut off.
        """
        found = self._longest(host, path)
        if not _PLAIN.fullmatch(path) and self._longest(host, _fullest(path)) is not found:
            raise ProtocolError("the path is another route's if it is decoded, merged or cut")
        return found

    def _longest(self, host: str, path: str) -> Route | None:
        label, _, parent = host.partition(".")
        closed = path + "/"
        tables = (self._exact.get(host), self._wildcard.get(parent) if label else None, self._any)
        for table in tables:
            for prefix, route in table or ():
                if closed.startswith(prefix):
                    return route
        return None
