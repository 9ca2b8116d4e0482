"""The real MQTT clients of the tests: the libraries by name, and Mosquitto's two programs."""

from __future__ import annotations

import shutil
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import Queue
from typing import Self

from tests.e2e.mqtt_gmqtt import open_with_gmqtt
from tests.e2e.mqtt_paho import open_with_aiomqtt, open_with_paho
from tests.e2e.mqtt_vocabulary import V5, V31, V311, Account, Opener
from tests.e2e.wss_clients import NODE_SCRIPTS
from tests.gateways import PATIENCE

# MQTT.js needs a process: see `mqtt_node.Node.open`.
OPENERS: dict[str, Opener] = {"paho": open_with_paho, "aiomqtt": open_with_aiomqtt, "gmqtt": open_with_gmqtt}

_VERSIONS = {V31: "mqttv31", V311: "mqttv311", V5: "mqttv5"}


def missing_for_mqtt_js() -> str | None:
    """What it cannot run without."""
    if shutil.which("node") is None:
        return "node is not installed"
    return None if (NODE_SCRIPTS / "node_modules" / "mqtt").is_dir() else "the npm package mqtt is not installed"


# --- mosquitto_pub and mosquitto_sub ----------------------------------------------------------------------------------


def mosquitto_arguments(account: Account, version: int = V311) -> list[str]:
    arguments = ["-h", account.host, "-p", str(account.port), "--cafile", str(account.trust), "-V", _VERSIONS[version]]
    if account.certificate:
        arguments += ["--cert", str(account.certificate[0]), "--key", str(account.certificate[1])]
    if account.user_name is not None:
        arguments += ["-u", account.user_name, "-P", account.password or ""]
    return arguments


def mosquitto_pub(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    command = ["mosquitto_pub", *arguments]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False
    )


class MosquittoSub:
    """One running mosquitto_sub, with what it prints. It is told to say what it does, so that its SUBACK is seen."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.process = process
        self.lines: Queue[bytes | None] = Queue()
        self.said: list[bytes] = []
        self._thread = threading.Thread(target=self._listen, daemon=True)

    @classmethod
    @contextmanager
    def running(cls, arguments: Sequence[str]) -> Iterator[Self]:
        """From its SUBACK on."""
        # What it says of itself is on the same stream as the messages; both come line by line only when told to.
        command = ["stdbuf", "-oL", "mosquitto_sub", *arguments, "-d"]
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
            subscriber = cls(process)
            subscriber._thread.start()
            try:
                subscriber.until(b"received SUBACK")
                yield subscriber
            finally:
                process.kill()
                subscriber._thread.join(PATIENCE)

    def _listen(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.put(line.rstrip(b"\n"))
        self.lines.put(None)

    def until(self, text: bytes) -> None:
        """It has said that."""
        while text not in self._line():
            pass

    def _line(self) -> bytes:
        line = self.lines.get(timeout=PATIENCE)
        assert line is not None, f"mosquitto_sub has ended: {self.said}"
        self.said.append(line)
        return line

    def message(self) -> bytes:
        """The next one that it has printed."""
        while (line := self._line()).startswith((b"Client ", b"Subscribed ")) or not line:
            pass
        return line
