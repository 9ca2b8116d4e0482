"""Stands for systemd: starts a program with listening sockets as its descriptors from 3 on, and hears what it tells.

Owns the socket at NOTIFY_SOCKET. Limits of a service's that the kernel sets, such as those of its system calls, are
laid on a process by `sandbox`.
"""

from __future__ import annotations

import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

# The process id has to be known before the program is: so a program that becomes another one.
_BECOME = """
import os, sys
count, *command = sys.argv[1:]
passed = [int(fd) for fd in count.split(",") if fd]
away = [os.dup2(fd, 200 + n, inheritable=False) for n, fd in enumerate(passed)]
for n, fd in enumerate(away):
    os.dup2(fd, 3 + n, inheritable=True)
os.environ["LISTEN_PID"] = str(os.getpid())
os.execv(command[0], command)
"""


def activated(command: Sequence[str], passed: Sequence[int]) -> list[str]:
    """The command line that does so. It needs `passed` as its `pass_fds`, and LISTEN_FDS in its environment."""
    return [sys.executable, "-c", _BECOME, ",".join(map(str, passed)), *command]


@dataclass(slots=True)
class ServiceManager:
    """`heard`: every message so far, as its fields."""

    where: Path
    sock: socket.socket
    heard: list[dict[str, str]] = field(default_factory=list)

    @classmethod
    @contextmanager
    def listening(cls, where: Path) -> Iterator[Self]:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
            sock.bind(str(where))
            yield cls(where, sock)

    def environ(self, **more: str) -> Mapping[str, str]:
        return {"NOTIFY_SOCKET": str(self.where), **more}

    def hear(self, name: str, seconds: float = 30) -> dict[str, str]:
        """The next message that has a field of that name; whatever comes before it is kept in `heard`, too."""
        deadline = time.monotonic() + seconds
        while True:
            self.sock.settimeout(max(deadline - time.monotonic(), 0.001))
            message = dict(line.split("=", 1) for line in self.sock.recv(4096).decode().splitlines())
            self.heard.append(message)
            if name in message:
                return message


def environment(passed: Sequence[int], **more: str) -> dict[str, str]:
    return {**os.environ, "LISTEN_FDS": str(len(passed)), **more}
