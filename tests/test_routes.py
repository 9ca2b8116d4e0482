"""Which route a request takes, and that no server behind a route reads its paths as another route's."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from urllib.parse import quote, unquote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.admission import Admission
from gateway.errors import ProtocolError
from gateway.routes import Route, Routes, clashes, parse_prefix
from gateway.upstream import Address, ClientTLS, TLSMode, Upstream


def route(name: str, path: str, *hosts: str, listeners: tuple[str, ...] = ("main",)) -> Route:
    upstream = Upstream(f"route:{name}", (Address("127.0.0.1", 8080),), ClientTLS(TLSMode.DISABLE))
    return Route(name, listeners, hosts, path, upstream, Admission(()))


def found(routes: Routes, path: str, host: str = "gw.example.org") -> str | None:
    route = routes.find(host, path)
    return route.name if route else None


def refused(routes: Routes, path: str, reason: str = "") -> None:
    with pytest.raises(ProtocolError, match=re.escape(reason)):
        routes.find("gw.example.org", path)


# --- the choice -------------------------------------------------------------------------------------------------------


def test_no_routes_find_nothing() -> None:
    assert found(Routes(()), "/") is None


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/ws", "ws"),
        ("/ws/", "ws"),
        ("/ws/x", "ws"),
        ("/wsx", None),
        ("/w", None),
        ("/", None),
        ("/WS", None),
        ("/x/ws", None),
        ("/ws:x", None),
        ("/ws/admin", "admin"),
        ("/ws/admin/x", "admin"),
        ("/ws/administrator", "ws"),
    ],
)
def test_a_prefix_is_of_whole_segments_and_the_longest_wins(path: str, name: str | None) -> None:
    for order in (("ws", "admin"), ("admin", "ws")):
        paths = {"ws": "/ws", "admin": "/ws/admin"}
        assert found(Routes(tuple(route(each, paths[each]) for each in order)), path) == name


def test_an_empty_path_is_every_path() -> None:
    routes = Routes((route("all", ""), route("ws", "/ws")))
    assert [found(routes, path) for path in ("/", "/x", "/wsx", "/ws/x")] == ["all", "all", "all", "ws"]


HOSTS = Routes(
    (
        route("any", ""),
        route("any-deep", "/a/b"),
        route("wildcard", "/a", "*.example.org"),
        route("exact", "", "gw.example.org", "other.example"),
    )
)


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("gw.example.org", "/a/b", "exact"),
        ("other.example", "/a/b", "exact"),
        ("b.example.org", "/a/b", "wildcard"),
        ("b.example.org", "/x", "any"),
        ("example.org", "/a", "any"),
        ("a.b.example.org", "/a", "any"),
        (".example.org", "/a", "any"),
        ("*.example.org", "/x", "any"),
        ("gw.example.org.evil", "/", "any"),
        ("xgw.example.org", "/a/b", "wildcard"),
        ("", "/a/b/c", "any-deep"),
        ("[::1]", "/", "any"),
    ],
)
def test_an_exact_host_wins_over_a_wildcard_and_that_over_none(host: str, path: str, name: str) -> None:
    assert found(HOSTS, path, host) == name


def test_a_host_that_no_route_has_finds_nothing() -> None:
    assert found(Routes((route("a", "", "a.example"), route("b", "", "*.b.example"))), "/", "c.example") is None


def test_clashes_are_found_once() -> None:
    first, second = route("first", "/a", "x.example"), route("second", "/a", "y.example", "x.example", "x.example")
    third = route("third", "/a", "x.example", "y.example", listeners=("other", "main"))
    assert list(clashes((first, second, third))) == [(first, second), (first, third)]


def test_what_is_no_clash() -> None:
    one = route("one", "/a", "x.example")
    others = (
        replace(one, name="path", path="/b"),
        replace(one, name="host", hosts=("*.example",)),
        replace(one, name="every host", hosts=()),
        replace(one, name="listener", listeners=("other",)),
    )
    assert list(clashes((one, *others))) == []
    assert list(clashes((others[2], replace(others[2], name="again")))) != []


@pytest.mark.parametrize(
    ("text", "prefix"),
    [("/", ""), ("", ""), ("/ws", "/ws"), ("/a/b.c/~x,y=1:@2", "/a/b.c/~x,y=1:@2"), ("/...", "/...")],
)
def test_a_prefix_of_plain_segments(text: str, prefix: str) -> None:
    assert parse_prefix(text) == prefix


@pytest.mark.parametrize(
    "text",
    [
        "ws",
        "/ws/",
        "//",
        "/a//b",
        "/a;b",
        "/a%20b",
        "/a b",
        "/.",
        "/a/..",
        "/a/../b",
        "/a\\b",
        "/ü",
        "/a?b",
        "/a#",
        "/a\n",
    ],
)
def test_what_is_no_prefix(text: str) -> None:
    with pytest.raises(ValueError, match="is not a path such as"):
        parse_prefix(text)


# --- paths that servers read differently ------------------------------------------------------------------------------

SITE = Routes((route("all", ""), route("ws", "/ws"), route("deep", "/pub/admin")))


@pytest.mark.parametrize(
    "path",
    [
        "/..",
        "/.",
        "/../ws",
        "/pub/../ws",
        "/pub/./x",
        "/pub/..",
        "/pub/..;x/ws",
        "/pub/..;/ws",
        "/pub/.;/ws",
        "/pub/%2e%2e/ws",
        "/pub/%2E./ws",
        "/pub/.%2e/ws",
        "/pub/..%2fws",
        "/pub%2f..%2fws",
        "/pub/%252e%252e/ws",
        "/pub/.%252e/ws",
        "/pub/..%252fws",
        "/pub/%2e%252e;x/ws",
        "/pub/..%3Bx/ws",
        "/pub/..%3Fx/ws",
        "/pub/..%23",
        "/pub/%252e",
        "/a/b/c/..",
    ],
)
def test_a_dot_segment_is_refused_however_it_is_written(path: str) -> None:
    refused(SITE, path, "dot segment")


@pytest.mark.parametrize("path", ["/...", "/.well-known/x", "/a..b", "/..a", "/a.", "/%2ea", "/x/..%20y", "/a?/..b"])
def test_other_dots_are_dots(path: str) -> None:
    assert found(SITE, path) == "all"


@pytest.mark.parametrize(
    "path",
    ["/a\\b", "/a%5cb", "/a%5Cb", "/a%255cb", "/a%00", "/a%0a", "/a%0d%0aX", "/%7f", "/%C2%85", "/%2500", "/a\0"],
)
def test_backslashes_and_controls_are_refused(path: str) -> None:
    refused(SITE, path, "a backslash or a control character")


@pytest.mark.parametrize(
    "path", ["/%C0%AFws", "/%C0%AE%C0%AE/ws", "/%E0%80%AF", "/%FF", "/%25C0%25AF", "/%ED%A0%80", "/%E9"]
)
def test_what_is_not_utf8_is_refused(path: str) -> None:
    refused(SITE, path, "not UTF-8")


@pytest.mark.parametrize("path", ["/%2525252e", "/a%252541", "/" + "%25" * 5 + "2525" + "41", "/%" + "25" * 16000])
def test_no_end_of_decoding_is_refused(path: str) -> None:
    refused(SITE, path, "more than twice")


@pytest.mark.parametrize(
    "path",
    [
        "/%77s",
        "/w%73/x",
        "/%77%73",
        "/%2577s",
        "/ws;x",
        "/ws;x/y",
        "/ws%3Bx",
        "/ws%253Bx/y",
        "/ws%2Fx",
        "/ws%252Fx",
        "/ws%3Fx",
        "/ws%23x",
        "/ws?x",
        "/ws#x",
        "/pub//admin",
        "/pub///admin/x",
        "/pub/%2Fadmin",
        "/pub%2Fadmin",
        "/pub;x/admin",
        "/pub/;x/admin",
        "/pub/;/%61dmin",
        "/pub//%2561dmin;v=1",
    ],
)
def test_a_path_that_becomes_another_routes_is_refused(path: str) -> None:
    refused(SITE, path, "another route's")


@pytest.mark.parametrize("path", ["//", "//ws", "//x/ws", "/%2Fx/ws", "/%2F", "/;x/y/ws", "/;/ws"])
def test_two_slashes_at_the_beginning_are_refused(path: str) -> None:
    refused(SITE, path, "begins with two slashes")


@pytest.mark.parametrize("path", ["/x;%2Fy/admin", "/pub/;%2Fx/admin", "/pub/x%3B%2Fy/admin", "/a%252Fb;c"])
def test_parameters_beside_an_encoded_slash_are_refused(path: str) -> None:
    refused(SITE, path, "parameters beside an encoded slash")


@pytest.mark.parametrize(
    "path", ["", "*", "ws", "gw.example.org:443", "https://gw.example.org/ws", "%2Fws", ";/ws", "?"]
)
def test_what_does_not_begin_with_a_slash_is_refused(path: str) -> None:
    refused(SITE, path, "does not begin with a slash")


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("/a%20b", "all"),
        ("/caf%C3%A9", "all"),
        ("/api/group%2Fproject", "all"),
        ("/files/a//b", "all"),
        ("/files;v=1/x", "all"),
        ("/100%25", "all"),
        ("/what%3F", "all"),
        ("/a|b^c[d]", "all"),
        ("/ws/%E4%BD%A0", "ws"),
        ("/ws/a%2Fb", "ws"),
        ("/ws//x", "ws"),
        ("/ws/;x", "ws"),
        ("/ws/;x/%61", "ws"),
        ("/pub/admin/a%252Fb", "deep"),
        ("/pub/%2Fx", "all"),
    ],
)
def test_what_stays_in_its_route_in_every_reading_is_found(path: str, name: str) -> None:
    assert found(SITE, path) == name


def test_a_refusal_does_not_tell_the_path() -> None:
    with pytest.raises(ProtocolError) as refusal:
        SITE.find("gw.example.org", "/ws;secret")
    assert "secret" not in str(refusal.value)


@given(st.lists(st.text(st.characters(exclude_categories=["C", "Zl", "Zp"], exclude_characters="\\%"), min_size=1)))
def test_every_name_can_be_asked_for_below_a_route(names: list[str]) -> None:
    names = [name for name in names if name.strip(".") and not name.startswith((".;", ".?", ".#", "..;", "..?", "..#"))]
    path = "/ws/" + "/".join(quote(name.replace("/", "-").replace(";", ","), safe="") for name in names)
    assert found(SITE, path) == "ws"


# --- a server that reads as it likes ----------------------------------------------------------------------------------


def decode(path: str) -> str:
    return unquote(path, errors="replace")


def decode_but_slashes(path: str) -> str:
    return "/".join(re.sub("/", "%2F", unquote(segment, errors="replace")) for segment in path.split("/"))


def merge(path: str) -> str:
    return re.sub("/+", "/", path)


def cut(path: str) -> str:
    return "/".join(segment.partition(";")[0] for segment in path.split("/"))


def drop_query(path: str) -> str:
    return re.split(r"[?#]", path)[0]


def drop_host(path: str) -> str:
    return "/" + path[2:].partition("/")[2] if path.startswith("//") else path


def turn_slashes(path: str) -> str:
    return path.replace("\\", "/")


def resolve_dots(path: str) -> str:
    """RFC 3986, 5.2.4."""
    kept: list[str] = []
    for segment in path.split("/")[1:]:
        if segment == "..":
            del kept[-1:]
        elif segment != ".":
            kept.append(segment)
    return "/" + "/".join(kept)


STEPS = (decode, decode_but_slashes, merge, cut, drop_query, drop_host, turn_slashes, resolve_dots)


def lands(routes: tuple[Route, ...], host: str, path: str) -> Route | None:
    """The route by its definition: every one that has the host and the segments, and the best of them."""
    segments = path.split("/")
    best: tuple[tuple[int, int], Route] | None = None
    for each in routes:
        own = each.path.split("/")
        rank = 0 if not each.hosts else 2 if host in each.hosts else 1
        fits = rank != 1 or any("*." + host.partition(".")[2] == pattern for pattern in each.hosts)
        if fits and segments[: len(own)] == own and (best is None or (rank, len(own)) > best[0]):
            best = ((rank, len(own)), each)
    return best and best[1]


words = st.sampled_from(["a", "b", "ws"])
tables = st.dictionaries(
    st.tuples(st.lists(words, max_size=3), st.sampled_from(["", "x.example", "*.example"])).map(
        lambda key: ("".join(f"/{word}" for word in key[0]), key[1])
    ),
    st.just(None),
    max_size=6,
)
plain = ["/", "/a", "/b", "/ws"]
raw = [";", "?", "//", "/.", "/.."]
once = ["%2F", "%2f", "%3B", "%3F", "/%61", "/%62", "/%77s", "%25", "%2e", "%5c"]
twice = ["%252F", "%253B", "/%2561", "%252e"]
pieces = st.one_of(*map(st.sampled_from, (plain, plain, plain, raw, once, twice)))
# Most of what begins with two slashes is refused for that alone.
paths = st.lists(pieces, max_size=10).map("".join).map(lambda path: re.sub("^/*", "/", path))
servers = st.lists(st.sampled_from(STEPS), max_size=8)


@settings(max_examples=400)
@given(tables, st.sampled_from(["x.example", "y.example", "z"]), paths, servers)
@example({("", ""): None, ("/a", ""): None}, "z", "/b%3B%2Fb/a", [decode_but_slashes, cut, decode])
@example({("", ""): None, ("/a", ""): None}, "z", "/;x/b/a", [cut, drop_host])
@example({("", ""): None, ("/a", ""): None}, "z", "/b/%252e%252e/a", [decode, decode, resolve_dots])
def test_no_server_lands_in_another_route(
    table: dict[tuple[str, str], None], host: str, path: str, server: list[Callable[[str], str]]
) -> None:
    routes = tuple(route(f"{host}{path}", path, *filter(None, [host])) for path, host in table)
    try:
        chosen = Routes(routes).find(host, path)
    except ProtocolError:
        return
    assert chosen is lands(routes, host, path)
    for step in server:
        path = step(path)
        assert chosen is lands(routes, host, path)
