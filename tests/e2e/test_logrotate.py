"""The audit file is rotated by the real logrotate, with conf/securegw.logrotate, under a gateway that runs."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from pathlib import Path

import pytest

from tests.gateways import PATIENCE, RunningGateway, wait_until
from tests.http_servers import WebService

RULES = Path(__file__).parent.parent.parent / "conf/securegw.logrotate"
PLACE = "/var/log/securegw/audit.jsonl"
RELOAD = "! systemctl is-active --quiet securegw.service || systemctl reload securegw.service"


@pytest.fixture
def logrotate() -> str:
    # Debian keeps it where only root looks for programs.
    found = shutil.which("logrotate", path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        pytest.skip("Debian's logrotate is not installed")
    return found


def rules(folder: Path, pid: int) -> Path:
    """The file's own, for this folder, this user and this process."""
    text = RULES.read_text()
    for theirs, ours in (
        (PLACE, str(folder / "audit.jsonl")),
        ("    su securegw securegw\n", ""),
        ("create 0600 securegw securegw", "create 0600"),
        (RELOAD, f"kill -HUP {pid}"),
    ):
        assert text.count(theirs) == (2 if theirs == PLACE else 1), theirs
        text = text.replace(theirs, ours)
    path = folder / "rules"
    path.write_text(text)
    path.chmod(0o600)
    return path


def test_records_go_on_in_the_new_file(tmp_path: Path, logrotate: str) -> None:
    with WebService.running() as web:
        folder = tmp_path / "gateway"
        sections = {"route:main": {"upstream": f"http://localhost:{web.port}"}}
        with RunningGateway.https(folder, sections) as gateway:
            folder.chmod(0o700)
            assert gateway.process is not None
            path = rules(folder, gateway.process.pid)
            audit = folder / "audit.jsonl"

            def connect() -> None:
                before = audit.stat().st_size
                with socket.create_connection(("127.0.0.1", gateway.https_port), timeout=PATIENCE):
                    pass
                wait_until(lambda: audit.stat().st_size > before, "a record of it")

            def rotate() -> None:
                before = gateway.log.read_text().count("reloaded")
                command = [logrotate, "--force", "--state", str(folder / "state"), str(path)]
                done = subprocess.run(command, capture_output=True, text=True, check=False)
                assert (done.returncode, done.stderr) == (0, "")
                wait_until(lambda: gateway.log.read_text().count("reloaded") > before, "the reload")

            connect()
            rotate()
            assert audit.stat().st_size == 0
            assert audit.stat().st_mode & 0o777 == 0o600
            connect()
            (old,) = folder.glob("audit.jsonl-*")
            assert old.read_text().count("\n") >= 1
