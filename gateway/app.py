"""`twistd securegw`: its options, and how a process comes to be a gateway.

Owns the start. Whatever is wrong at it is told in plain lines and ends it with status 1 before anything is bound.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.python import usage

from gateway import config
from gateway.errors import ConfigError, Problems
from gateway.inspection import permissions
from gateway.quickstart import Quickstart, prepare
from gateway.service import ENDINGS, Gateway
from gateway.settings import Config
from gateway.systemd import Notifier, inherited

if TYPE_CHECKING:
    from gateway.demo import DemoApplication


class Options(usage.Options):
    """What `twistd securegw --help` teaches."""

    synopsis = "[-c conf/gw.ini]"
    optParameters = ((("config", "c", None, "the INI file; conf/gw.ini shows every key with its default")),)
    longdesc = (
        "A gateway for PostgreSQL whose clients log in with a short-lived JWT as their password, and for HTTP, "
        "WebSockets, MQTT and gRPC whose clients are known by their certificates. "
        "Without -c it takes its settings from the environment variables of jwt-postgresql-proxy. "
        "Signals: HUP reads certificates, keys and rules again; TERM ends in order."
    )


def _say(text: str) -> None:
    """To whoever started it; the log may go elsewhere."""
    print(text, flush=True)  # noqa: T201 - it is for a person


def _leave(text: str) -> NoReturn:
    """Plain lines on standard error and status 1: twistd adds a traceback to anything else."""
    sys.stderr.write(text + "\n")
    raise SystemExit(1)


def _application(demo: Quickstart | None) -> DemoApplication | None:
    if demo is None or demo.application is None:
        return None
    from gateway.demo import DemoApplication  # noqa: PLC0415 - what it needs comes with the quickstart extra

    return DemoApplication(demo.application)


def _catch_early_signals() -> None:
    """By itself a signal would end the process, and leave the quickstart's PostgreSQL behind."""

    def leave(*_: object) -> NoReturn:
        raise SystemExit(0)

    for ending in ENDINGS:
        signal.signal(ending, leave)
    # Not SIG_IGN, which the programs that we start would inherit.
    signal.signal(signal.SIGHUP, lambda *_: None)


def makeService(
    options: Mapping[str, Any], reactor: Any = None, environ: MutableMapping[str, str] = os.environ
) -> Gateway:
    """The composition root, as twistd calls it. Ends the process with status 1 if it cannot be started."""
    if reactor is None:
        from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it, which twistd has to do first
    # Taken once: with --rundir a reload would find another one.
    folder = Path.cwd()
    path = Path(options["config"]) if options["config"] else None
    demo: Quickstart | None = None

    def load(problems: Problems) -> Config:
        settings = config.load(path, environ, folder, problems)
        if demo and not settings.configured:
            return demo.complete(settings)
        return replace(settings, warnings=(*settings.warnings, *permissions.warnings(settings, environ)))

    def stop() -> None:
        if demo:
            demo.stop()

    _catch_early_signals()
    notifier, problems = Notifier(environ), Problems()
    passed: tuple[socket.socket, ...] = ()
    with problems.at("Socket", "ListenStream"):
        passed = inherited(environ)
    try:
        settings = load(problems)
        if not settings.configured:
            problems.raise_if_any()
            demo = prepare(settings, _say)
            settings = demo.config
        gateway = Gateway(reactor, settings, problems, load, stop, notifier, _application(demo))
        gateway.bind(passed)
        if demo:
            _say(demo.banner)
        gateway.await_reactor()
    except ConfigError as error:
        stop()
        _leave(str(error))
    except BaseException:
        stop()
        raise
    return gateway
