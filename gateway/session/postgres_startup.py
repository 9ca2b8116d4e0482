"""What a client asks for in its StartupMessage, and what of that an upstream is told.

Every parameter goes upstream as it came, but for `user`, which is the role's, options of the protocol (`_pq_.`), of
which we know none, and, where a template says so, `application_name`.
Source: PostgreSQL manual, "Start-up" and "StartupMessage".
"""

from __future__ import annotations

from gateway.wire import postgres as wire


class Startup:
    """user, database: exact names. application: for the audit. version: what we speak with this client.

    negotiation: a NegotiateProtocolVersion where it asked for more, else nothing. Raises ProtocolError.
    """

    __slots__ = ("application", "database", "negotiation", "parameters", "user", "version")

    def __init__(self, packet: wire.StartupMessage) -> None:
        given = packet.parameters
        options = [key for key in given if key.startswith(b"_pq_.")]
        self.parameters = {key: value for key, value in given.items() if key not in options}
        if not self.replication:
            self.parameters.pop(b"replication", None)
        elif self.physical:
            # The server takes any beginning of a boolean for it: `fals` would be an ordinary session there.
            self.parameters[b"replication"] = b"true"
        self.parameters[b"database"] = given.get(b"database") or given[b"user"]
        self.database = wire.name(self.parameters[b"database"], "database")
        self.user = wire.name(given[b"user"], "user")
        application = given.get(b"application_name", b"")[: wire.MAX_NAME]
        self.application = application.decode("utf-8", "ignore") or None
        # 3.1 was never released: PostgreSQL reserves it; it is answered with the version below it.
        self.version = wire.PROTOCOL_3_2 if packet.version >= wire.PROTOCOL_3_2 else wire.PROTOCOL_3_0
        self.negotiation = b""
        if options or self.version != packet.version:
            self.negotiation = wire.negotiate_protocol_version(self.version, options)

    @property
    def replication(self) -> bool:
        """A boolean or `database`; whatever is not clearly 'no' is 'yes' ("Streaming Replication Protocol")."""
        return self._replication() not in (b"", b"0", b"f", b"false", b"n", b"no", b"off")

    @property
    def physical(self) -> bool:
        """Replication that understands no SQL."""
        return self.replication and self._replication() != b"database"

    def _replication(self) -> bytes:
        return self.parameters.get(b"replication", b"").lower()

    def name_application(self, template: str, subject: str, address: str) -> None:
        """What the client calls itself is cut first, so that it cannot push out the rest."""
        room = wire.MAX_NAME - len(template.format(subject=subject, address=address, application_name="").encode())
        room //= max(1, template.count("{application_name}"))
        theirs = (self.application or "").encode()[: max(room, 0)].decode("utf-8", "ignore")
        name = template.format(subject=subject, address=address, application_name=theirs)
        self.parameters[b"application_name"] = name.strip().encode()[: wire.MAX_NAME]
