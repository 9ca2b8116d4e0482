"""Who is at the other end of a Unix socket: the kernel says, and nobody else."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.peers import peer_uid

CONNECT = """
import os, socket, sys
os.setuid(4711)
client = socket.socket(socket.AF_UNIX)
client.connect(sys.argv[1])
client.recv(1)
"""


def test_ourselves(tmp_path: Path):
    with socket.socket(socket.AF_UNIX) as listening, socket.socket(socket.AF_UNIX) as client:
        listening.bind(str(tmp_path / "socket"))
        listening.listen()
        client.connect(str(tmp_path / "socket"))
        with listening.accept()[0] as accepted:
            assert peer_uid(client) == peer_uid(accepted) == os.geteuid()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_another_user():
    # In the abstract namespace (unix(7)): this user may not search the folder of the tests.
    path = f"\0securegw-test-peers-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(path)
        server.listen()
        server.settimeout(10)
        command = [sys.executable, "-c", CONNECT.replace("sys.argv[1]", repr(path))]
        with subprocess.Popen(command, cwd=Path("/")) as client:
            connection, _ = server.accept()
            with connection:
                assert peer_uid(connection) == 4711
            assert client.wait(10) == 0
