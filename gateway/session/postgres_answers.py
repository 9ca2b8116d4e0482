"""What a PostgreSQL client is told when it cannot come in or cannot stay: constants, with the right SQLSTATE, and what
the database itself has said.

Nothing of our own depends on what was wrong in detail; that is in the audit record.
Source: PostgreSQL manual, appendix "PostgreSQL Error Codes".
"""

from __future__ import annotations

from gateway.wire.postgres import ErrorResponse, error_response

AUTHENTICATION_FAILED = error_response("28P01", "Authentication failed")
NOT_ALLOWED = error_response("28000", "No rule allows this user, database and address")
TLS_REQUIRED = error_response("28000", "TLS is required: connect with sslmode=require or stricter")
NO_USER = error_response("28000", "No PostgreSQL user name specified in the start-up packet")
PROTOCOL_VIOLATION = error_response("08P01", "Protocol violation")
NO_ALPN = error_response("08P01", "Direct TLS needs the ALPN protocol postgresql")
WRONG_VERSION = error_response("0A000", "Unsupported frontend protocol: this server supports 3.0 and 3.2")
TOO_MANY = error_response("53300", "Too many connections")
TOO_SLOW = error_response("57014", "Canceling authentication due to timeout")
UNREACHABLE = error_response("08006", "The database cannot be reached")
NOT_LET_IN = error_response("28000", "The gateway could not log in to the database")
EXPIRED = error_response("57P01", "Terminating connection: the token has expired")
REVOKED = error_response("57P01", "Terminating connection: the token or the certificate is not valid any more")
# As PostgreSQL itself says it.
KILLED = error_response("57P01", "terminating connection due to administrator command")
SHUTTING_DOWN = error_response("57P01", "Terminating connection: the gateway is shutting down")
IDLE_TOO_LONG = error_response("57P05", "Terminating connection: idle for too long")


def retold(error: ErrorResponse, role: str, subject: str | None) -> bytes:
    """As the upstream said it, unless that names a role which the client does not know.

    role: as whom the gateway logs in for the subject.
    """
    if role != subject and any(role in error.fields.get(field, "") for field in "MDH"):
        return error_response(error.sqlstate, "The database refused the connection")
    return bytes(error)
