"""Who is at the other end of a Unix socket, as the kernel knows.

Owns that question; whether whoever it is may ask, or is to be believed, is for who asks it to decide.
"""

from __future__ import annotations

import socket
import struct
from typing import Final

# struct ucred: pid, uid, gid (unix(7), SO_PEERCRED).
_UCRED: Final = struct.Struct("=iII")


def peer_uid(sock: socket.socket) -> int:
    """Of an accepted connection who has connected, of one that we made who listens; as it was then."""
    return int(_UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size))[1])
