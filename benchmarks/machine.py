"""What every benchmark needs of the machine: a scratch folder, and the facts that its figures depend on."""

from __future__ import annotations

import os
import platform
import shutil
import ssl
import subprocess
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from OpenSSL import SSL


def scratch(work: Path | None, stack: ExitStack) -> tuple[Path, Path]:
    """A folder that `--work` keeps between runs, and a new one inside for this run; without it both are removed."""
    if work is None:
        kept = Path(tempfile.mkdtemp(prefix="securegw-benchmark-"))
        kept.chmod(0o711)
        stack.callback(shutil.rmtree, kept, ignore_errors=True)
    else:
        kept = work.resolve()
        kept.mkdir(parents=True, exist_ok=True)
    return kept, Path(tempfile.mkdtemp(prefix="run-", dir=kept))


def machine_facts() -> dict[str, str]:
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "")
    return {
        "machine": f"{os.cpu_count()} cores, {model.partition(':')[2].strip() or platform.machine()}",
        "load before": f"{os.getloadavg()[0]:.2f}",
        "kernel": platform.release(),
        "Python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION}",
    }


def gateway_versions() -> str:
    names = ("securegw", "Twisted", "pyOpenSSL", "cryptography")
    return ", ".join([*map(installed, names), SSL.OpenSSL_version(SSL.OPENSSL_VERSION).decode()])


def installed(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return f"{name} (not installed: run from the checkout)"


def said_by(*command: str | Path) -> str:
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    return ", ".join((result.stdout or result.stderr).strip().splitlines())


def plainly(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
