"""Where to listen and where a service is, as text: `host:port`, sockets in PostgreSQL's naming or ours, HTTP URLs.

Owns these grammars. Refuses what could be meant in two ways: names to listen on, half an IP address, a URL with more in
it than a place. A URL is not quoted where a password could be in it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from urllib.parse import unquote

from gateway.routes import parse_prefix
from gateway.upstream import MAX_SOCKET_PATH, Address, is_ip

POSTGRES_PORT = 5432
WEB_PORTS = {"http": 80, "https": 443}

_ADDRESS = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<host>[A-Za-z0-9._-]+|\*))(?::(?P<port>[0-9]{1,5}))?")
_POSTGRES_SOCKET = re.compile(r"(?P<path>/.*?)(?::(?P<port>[0-9]{1,5}))?")
_UNIX = "unix:"


def port(text: str) -> int:
    if not re.fullmatch(r"[1-9][0-9]{0,4}", text) or int(text) > 65535:
        raise ValueError(f"{text} is not a port from 1 to 65535")
    return int(text)


def _host(v6: str | None, host: str) -> str:
    if v6 is not None:
        return str(IPv6Address(v6))
    # What consists of digits and dots is a mistyped address, never a name to look up.
    return str(IPv4Address(host)) if re.fullmatch(r"[0-9.]+", host) else host


def _dialed(text: str, default_port: int | None, forms: str) -> Address:
    found = _ADDRESS.fullmatch(text)
    if found is None or found["host"] == "*" or (found["port"] is None and default_port is None):
        raise ValueError(f"{text} is not {forms}")
    number = port(found["port"]) if found["port"] else default_port
    return Address(_host(found["v6"], found["host"]), number or 0)


def _bound(text: str, forms: str) -> Address:
    """No names: a resolver must not choose the interface."""
    found = _ADDRESS.fullmatch(text)
    if found is None or found["port"] is None:
        raise ValueError(f"{text} is not {forms}")
    if found["host"] and not re.fullmatch(r"\*|[0-9.]+", found["host"]):
        raise ValueError(f"{found['host']} is a name; listen on an IP address or *")
    return Address(_host(found["v6"], found["host"]), port(found["port"]))


def _socket(path: str) -> Address:
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise ValueError(f"{path} is longer than the {MAX_SOCKET_PATH} bytes that a Unix socket's path may have")
    return Address(path, 0)


# --- PostgreSQL -----------------------------------------------------------------------------------------------------


def host_address(text: str) -> Address:
    """`host[:port]`, `[v6][:port]`, or a Unix socket."""
    if text.startswith("/"):
        return _postgres_socket(text)
    return _dialed(text, POSTGRES_PORT, "host:port, [v6]:port or the absolute path of a Unix socket")


def listen_address(text: str) -> Address:
    """`ip:port`, `[v6]:port`, `*:port`, or a Unix socket."""
    if text.startswith("/"):
        return _postgres_socket(text)
    return _bound(text, "ip:port, [v6]:port, *:port or the absolute path of a Unix socket")


def _postgres_socket(text: str) -> Address:
    """PostgreSQL's naming: a port's socket is .s.PGSQL.PORT in its directory (manual, unix_socket_directories)."""
    found = _POSTGRES_SOCKET.fullmatch(text)
    if found is None:
        raise ValueError(f"{text} is not the path of a Unix socket")
    path = found["path"]
    if found["port"] or not path.rpartition("/")[2].startswith(".s.PGSQL."):
        path = f"{path.rstrip('/')}/.s.PGSQL.{port(found['port'] or str(POSTGRES_PORT))}"
    return _socket(path)


# --- a database of PostgreSQL's ---------------------------------------------------------------------------------------

_DATABASE = re.compile(
    r"postgres(?:ql)?://(?P<user>[^/:@?#]+)@(?P<hosts>\[[0-9A-Fa-f:.]+\]|[^/:@?#\[\]]+)(?::(?P<port>[0-9]{1,5}))?/(?P<name>[^/?#]+)"
)


@dataclass(frozen=True, slots=True)
class DatabaseURL:
    """Whose database, and where: hosts, or the folder of a Unix socket."""

    user: str
    hosts: tuple[str, ...]
    port: int
    name: str


def database_url(text: str) -> DatabaseURL:
    """`postgresql://USER@HOST[,HOST][:PORT]/NAME`, with percent-encoding where a part needs it, as the folder of a Unix
    socket does. There is no password: that is a secret, for a key of its own."""
    found = _DATABASE.fullmatch(text)
    if found is None:
        # Not quoted: it may hold a password.
        raise ValueError("is neither a path nor postgresql://USER@HOST[:PORT]/NAME (a password has a key of its own)")
    hosts = tuple(unquote(host).strip("[]") for host in found["hosts"].split(",") if host)
    number = port(found["port"] or str(POSTGRES_PORT))
    return DatabaseURL(unquote(found["user"]), hosts, number, unquote(found["name"]))


# --- anything else --------------------------------------------------------------------------------------------------


def service_address(text: str) -> Address:
    """`host:port`, `[v6]:port` or `unix:/path`."""
    if text.startswith(_UNIX):
        return _unix(text)
    return _dialed(text, None, "host:port, [v6]:port or unix:/absolute/path")


def door_address(text: str) -> Address:
    """`ip:port`, `[v6]:port`, `*:port` or `unix:/path`."""
    if text.startswith(_UNIX):
        return _unix(text)
    return _bound(text, "ip:port, [v6]:port, *:port or unix:/absolute/path")


def local_address(text: str) -> Address:
    """A door_address that only this machine can reach."""
    address = door_address(text)
    if not is_local(address):
        raise ValueError(f"{text} can be reached from elsewhere; use 127.0.0.1:port, [::1]:port or unix:/absolute/path")
    return address


def _unix(text: str) -> Address:
    path = text.removeprefix(_UNIX)
    if not re.fullmatch(r"(?:/[^/\0]+)+", path):
        raise ValueError(f"{text} is not unix:/absolute/path")
    return _socket(path)


def is_local(address: Address) -> bool:
    """Whether that IP address is loopback (RFC 1122, 3.2.1.3; RFC 4291, 2.5.3), or it is a Unix socket."""
    if not is_ip(address.host):
        return not address.port
    ip = ip_address(address.host)
    return ip.is_loopback if isinstance(ip, IPv4Address) else ip == IPv6Address("::1")


def collide(one: Address, other: Address) -> bool:
    """Whether both cannot be listened on at once. `*` is IPv4 and IPv6; `::` is IPv6 alone."""
    hosts = {one.host, other.host}
    if one.port != other.port or not one.port:
        return one == other
    families = {":" in host for host in hosts - {"*"}}
    return "*" in hosts or (len(families) == 1 and (len(hosts) == 1 or not hosts.isdisjoint({"::", "0.0.0.0"})))  # noqa: S104 - compared with, not bound


# --- HTTP -----------------------------------------------------------------------------------------------------------

_LABEL = r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?"
_NAME = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME = 253


@dataclass(frozen=True, slots=True)
class WebService:
    """Where an HTTP service is. scheme: `http`, `https` or `unix`. base: the URLs' path, without a final slash; None:
    there is none."""

    scheme: str
    addresses: tuple[Address, ...]
    base: str | None


def web_service(urls: tuple[str, ...]) -> WebService:
    """Several URLs are several addresses of the same service."""
    found = [_url(url) for url in urls]
    if len({(scheme, base) for scheme, _, base in found}) > 1:
        raise ValueError("these differ in more than host and port: use several routes")
    return WebService(found[0][0], tuple(address for _, address, _ in found), found[0][2])


def _url(text: str) -> tuple[str, Address, str | None]:
    forms = "http://host[:port][/path], https://host[:port][/path] or unix:/absolute/path"
    if re.search(r"[@?#]", text):
        raise ValueError(f"is {forms}, without a user, password, query or fragment")
    if text.startswith(_UNIX):
        return "unix", _unix(text), None
    scheme, _, rest = text.partition("://")
    if scheme not in WEB_PORTS:
        raise ValueError(f"{text} is not {forms}")
    authority, slash, path = rest.partition("/")
    return scheme, _dialed(authority, WEB_PORTS[scheme], forms), prefix(slash + path) if slash else None


_HTTPS = re.compile(r"https://(?P<authority>[^/?#@\\]+)(?:[/?][!\"$-\[\]-~]*)?")
_MAX_URL = 2048


def https_url(text: str) -> str:
    """One document over HTTPS, with its path and query; what is not ASCII or visible stands there percent-encoded
    (RFC 3986, 2). Not quoted where a password could be in it."""
    forms = "https://host[:port][/path][?query]"
    found = _HTTPS.fullmatch(text)
    if found is None or len(text) > _MAX_URL:
        raise ValueError(f"is a file, or {forms}, without a user, password or fragment")
    _dialed(found["authority"], WEB_PORTS["https"], forms)
    return text


def prefix(text: str) -> str:
    """A path of whole segments. A final slash says no more, so it is taken off: `/` is the empty prefix."""
    try:
        return parse_prefix(re.sub(r"(?<=[^/])/\Z", "", text))
    except ValueError as error:
        raise ValueError(f"{text} {error}") from None


def web_host(text: str) -> str:
    """A Host without its port, in lower case: a name, `*.` before a name, an IPv4 address, or `[v6]`."""
    if text.startswith("[") and text.endswith("]"):
        return f"[{IPv6Address(text[1:-1])}]"
    host = text.lower()
    if re.fullmatch(r"[0-9.]+", host):
        return str(IPv4Address(host))
    if not _NAME.fullmatch(host) or len(host) > _MAX_NAME:
        raise ValueError(f"{text} is not a host name in ASCII (*.name for one label more), IP address or [v6], alone")
    return host
