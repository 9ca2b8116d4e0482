"""A console over a registry of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from gateway.cli.settings import Installation
from gateway.registry.settings import RegistrySettings
from tests.cli.console import Console


@pytest.fixture
def console(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Console:
    """In an empty folder, in which `registry.sqlite` will be."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    # Without a buffer everything would be written at once anyway, and nothing told of a flush that is missing.
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    settings = RegistrySettings(tmp_path / "registry.sqlite")
    monkeypatch.setattr(Installation, "registry", lambda _: settings)
    return Console(settings)
