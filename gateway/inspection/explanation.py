"""What `explain` is asked and what it answers, as values; and what is the same whatever is asked.

Owns the client as a listener sees it before its first word: where it comes from, whether a PROXY header must say so,
and what becomes of its certificate.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import wraps
from typing import Concatenate, Final, ParamSpec, Protocol, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from gateway.doors import State
from gateway.inspection.rehearsal import Rehearsal
from gateway.rules import Network, client_address
from gateway.session.vocabulary import Secured, Side, TLSFacts
from gateway.trust import Examined
from gateway.upstream import Address, ServerTLS

L = TypeVar("L")
P = ParamSpec("P")
Ask = Callable[Concatenate[State, L, "Client", P], "Explanation"]

# Any will do: no rule knows ports.
_PORT: Final = 49_152
_VERSION: Final = "TLSv1.3"

# With these words `policy` and `admission` say no, where no line of theirs says anything.
_NO_RULE: Final = "no rule matches"
# With these words OpenSSL says that no authority vouches for a certificate.
_OF_STRANGERS: Final = ("issuer certificate", "self-signed certificate", "verify the first certificate")


@dataclass(frozen=True, slots=True)
class Client:
    """Who asks. address: an IP address, or empty for a client of a Unix socket. chain: its certificate, and what it
    sends along; empty: it shows none. Raises ValueError for an address that is none.
    """

    address: str
    chain: tuple[x509.Certificate, ...] = ()

    def __post_init__(self) -> None:
        client_address(self.address)

    @property
    def where(self) -> Address:
        """As the gateway has it, to which an IPv4 client of a dual-stack socket is one of IPv4."""
        found = client_address(self.address)
        return Address("", 0) if found is None else Address(str(found), _PORT)

    def facts(self, found: Examined, *, shown: bool, alpn: bytes = b"", server_name: str | None = None) -> TLSFacts:
        """What a handshake that went well has proven. shown: the listener asks for certificates."""
        leaf = self.chain[0] if self.chain and shown else None
        return TLSFacts(
            _VERSION,
            alpn,
            server_name,
            leaf.public_bytes(Encoding.DER) if leaf else None,
            leaf.not_valid_after_utc.timestamp() if leaf else None,
            found.issuers,
        )


@dataclass(frozen=True, slots=True)
class Explanation:
    """listener: its section. reason: why not. rule: the line that decided, and where it stands; or what else decided,
    such as that there is no line for it.

    details: what else came to light, in the words of the audit. notes: what the answer does not cover.
    """

    allowed: bool
    listener: str
    reason: str | None = None
    rule: str | None = None
    details: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class RuleLine(Protocol):
    """A rule, of whatever it is about."""

    @property
    def source(self) -> str: ...

    @property
    def text(self) -> str: ...


def place(rule: RuleLine) -> str:
    """As the audit has it."""
    return f"{rule.source}: {rule.text}"


def denying(reason: str | None, section: str, rules: Collection[RuleLine]) -> str | None:
    """The rule that is the reason, if one is, or that none of them is for it."""
    said = (reason or "").removeprefix("denied: ")
    if said == _NO_RULE:
        return none_of(section, "rules", rules)
    return said if said in map(place, rules) else None


def none_of(section: str, key: str, rules: Collection[RuleLine]) -> str:
    """Where the answer is no because no line says yes."""
    count = len(rules)
    words = "there is no line" if not count else "its one line does not match" if count == 1 else ""
    return f"[{section}] {key}: {words or f'none of {count} lines matches'}"


def of_registry(thing: str | None, channel: str) -> str:
    """Where a connection, or that there is none, decides."""
    return f"[registry] the thing {thing} in the channel {channel}"


def known(**details: str | None) -> dict[str, str]:
    """Those that are."""
    return {name: value for name, value in details.items() if value is not None}


# --- whoever comes without a PROXY header -----------------------------------------------------------------------------


def directly(ask: Ask[L, P]) -> Ask[L, P]:
    """What `ask` says of a client is meant of one that reaches the session. Where its address is a proxy's, only a
    PROXY header leads there, and who sends none is refused; what `ask` says is then a note.
    """

    @wraps(ask)
    def answer(state: State, listener: L, client: Client, /, *args: P.args, **kwargs: P.kwargs) -> Explanation:
        found = ask(state, listener, client, *args, **kwargs)
        door, host = state.doors[found.listener], client.where.host
        return _without_header(found, host, door.proxy_networks) if door.expects_proxy(host) else found

    return answer


def _without_header(found: Explanation, host: str, networks: tuple[Network, ...]) -> Explanation:
    why = found.rule or found.reason
    verdict = f"{'allowed' if found.allowed else 'not allowed'}{f' ({why})' if why else ''}"
    return Explanation(
        False,
        found.listener,
        f"PROXY header: a connection from {host} must begin with one; ask for the address that the header carries",
        f"[{found.listener}] proxy_protocol = {', '.join(map(str, networks))}",
        notes=(f"With a PROXY header that carries {host} itself, or no address: {verdict}.", *found.notes),
    )


# --- the way in -------------------------------------------------------------------------------------------------------


class Entrance:
    """One connection to a listener, up to the end of its handshake. tls: what that proved, afterwards.

    settings: None where the listener speaks no TLS.
    """

    tls: TLSFacts

    def __init__(self, state: State, listener: str, settings: ServerTLS | None, client: Client) -> None:
        self.listener, self._settings, self._client = listener, settings, client
        self.rehearsal = Rehearsal(state.doors[listener])
        self._certificates = state.doors[listener].certificates
        self.notes: tuple[str, ...] = ()

    def shake_hands(self, alpn: bytes = b"", server_name: str | None = None) -> Explanation | None:
        """None: it went well, and the session has heard of it. Raises LookupError where there is no TLS."""
        settings = self._settings
        if settings is None:
            raise LookupError(self.listener)
        found = self._certificates.server(self.listener).examine(self._client.chain)
        if found.refusal is not None:
            return Explanation(False, self.listener, f"TLS: {found.refusal}{self._why(settings, found.refusal)}")
        if found.stale:
            self.notes = (
                f"A CRL in {settings.client_crl} is past its nextUpdate; it still counts (stale_crl = warn).",
            )
        shown = settings.client_certificate != "none"
        if self._client.chain and not shown:
            self.notes = ("The listener asks for no certificate, so this one is not seen.",)
        self.tls = self._client.facts(found, shown=shown, alpn=alpn, server_name=server_name)
        self.rehearsal.tell(Secured(Side.CLIENT, self.tls))
        return None

    def _why(self, settings: ServerTLS, refusal: str) -> str:
        """What of the configuration has a part in that."""
        key, path = "client_ca", settings.client_ca
        if "CRL" in refusal or "revoked" in refusal:
            key, path = "client_crl", settings.client_crl
        elif not any(words in refusal for words in _OF_STRANGERS):
            return ""
        return f" ([{settings.sections.get(key, self.listener)}] {key} = {path})"
