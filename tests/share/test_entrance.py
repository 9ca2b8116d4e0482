"""Who else comes to the listener that is meant for libpq."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gateway.share import entrance
from tests.wires import no_new_descriptors

_STRANGER = "import socket, sys; one = socket.create_connection(('127.0.0.1', int(sys.argv[1]))); print(one.recv(1))"


def test_a_stranger_who_comes_first_is_turned_away() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        with subprocess.Popen([sys.executable, "-c", _STRANGER, str(port)], stdout=subprocess.PIPE) as stranger:
            # It waits in the backlog before ours does.
            while not _connected(port):
                assert stranger.poll() is None
            with socket.create_connection(("127.0.0.1", port)) as ours, entrance._our_own(listener) as accepted:
                assert accepted.getpeername() == ours.getsockname()
            assert stranger.communicate()[0] == b"b''\n"


def test_nobody_is_waited_for_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(entrance, "PATIENCE", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(TimeoutError):
        entrance._our_own(listener)


def test_looking_for_ours_leaves_nothing_open() -> None:
    with no_new_descriptors():
        assert not entrance._is_ours(("127.0.0.1", 1), ("127.0.0.1", 2))


def _connected(port: int) -> bool:
    """Whether somebody is connected to that port of the loopback (proc(5), /proc/net/tcp: state 01)."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()]
    return any(row[2] == f"0100007F:{port:04X}" and row[3] == "01" for row in rows[1:])
