"""`twistd securegw`: its options, and the one place where everything is made and wired together.

Owns the process's life: configuration, binding, reload, shutdown. Whatever is wrong at the start is told in plain
lines and ends it with status 1 before anything is bound; whatever is wrong at a reload leaves everything as it was.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from twisted.application import service
from twisted.internet.defer import Deferred, gatherResults, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.logger import Logger
from twisted.python import usage
from twisted.python.failure import Failure

from gateway import config
from gateway.audit import Audit
from gateway.doors import HEALTH, Doors, State, listening
from gateway.errors import ConfigError, Problems
from gateway.hub.hub import Hub, Nobody
from gateway.hub.ports import Permission
from gateway.hub.rows import StoreError
from gateway.hub.store import MemoryStore, SqliteStore
from gateway.net import listener
from gateway.net.connections import Connections, waiting_room
from gateway.net.poller import Poller
from gateway.net.pool import MAX_IDLE
from gateway.quickstart import Quickstart, prepare
from gateway.registry.service import Registry, open_registry
from gateway.session.cancel import CancelKeys
from gateway.session.health import Health
from gateway.session.mqtt_caller import ChannelPermission
from gateway.settings import Config, HubFile

if TYPE_CHECKING:
    from gateway.demo import DemoApplication

# Descriptors that a process needs besides two for each connection.
_SPARE_DESCRIPTORS = 64

_ENDINGS = (signal.SIGTERM, signal.SIGINT)


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


class Gateway(service.Service):
    """The service. `bind` comes before anything runs.

    load: reads the configuration again, for a reload. stop_quickstart: called once at the end. demo: what the
    quickstart's routes lead to. Raises ConfigError.
    """

    name = "securegw"
    _log = Logger()

    def __init__(
        self,
        reactor: Any,
        settings: Config,
        problems: Problems,
        load: Callable[[Problems], Config],
        stop_quickstart: Callable[[], None],
        demo: DemoApplication | None = None,
    ) -> None:
        self._reactor, self._load, self._stop_quickstart, self._demo = reactor, load, stop_quickstart, demo
        self.cancels = CancelKeys(settings.limits.cancel_rate)
        self._registry = _registry(reactor, settings)
        self._doors = Doors(
            lambda: self._state,
            self._health,
            self.cancels,
            hub=self._open_hub(settings, problems),
            things=self._registry.things if self._registry else None,
        )
        if self._registry is not None and self._doors.hub is not None:
            self._registry.things.deleted = self._doors.hub.end_sessions
        try:
            self._state = self._doors.build(settings, problems)
        except BaseException:
            self._close_hub()
            raise
        self._reload_failed = self._listening = False
        self._bound: list[tuple[str, socket.socket]] = []
        self._listeners: dict[listener.Listener, str] = {}
        self._audit: Audit | None = None
        self._poller: Poller | None = None
        self.connections: Connections | None = None

    # --- the hub ----------------------------------------------------------------------------------------------------

    def _open_hub(self, settings: Config, problems: Problems) -> Hub | None:
        if settings.hub is None or problems.found:
            return None
        with problems.at("hub", "database"):
            return self._hub(settings.hub)
        return None

    def _hub(self, found: HubFile) -> Hub:
        """Raises ValueError, OSError."""
        things = self._registry.things if self._registry is not None else None

        def permission_of(owner: str) -> Permission:
            return ChannelPermission(things, owner) if things is not None else Nobody()

        path = found.database
        try:
            if path is not None:
                path.parent.mkdir(mode=0o700, exist_ok=True)
            store = SqliteStore(path) if path is not None else MemoryStore()
            return Hub(found.settings, store, time.time, self._reactor.callLater, permission_of)
        except StoreError as error:
            raise ValueError(f"{path}: {error}") from None

    def _close_hub(self) -> None:
        if self._doors.hub is not None:
            self._doors.hub.close()

    # --- configuration ----------------------------------------------------------------------------------------------

    def _health(self) -> Health:
        return Health(
            ready=bool(self.running and self._listening),
            last_reload_failed=self._reload_failed,
            connections=len(self.connections) if self.connections is not None else 0,
            registry=self._registry.healthy if self._registry is not None else None,
        )

    def reload(self) -> bool:
        """Certificates, CRLs, keys, rules, limits and upstreams anew, for sessions to come: all or nothing."""
        problems = Problems()
        try:
            settings = self._load(problems)
            if not listening(settings):
                # Nothing could be read, so nothing was removed either.
                problems.raise_if_any()
            self._check_unchanged(settings, problems)
            state = self._doors.build(settings, problems)
            if self._audit is not None:
                self._audit.reopen()
        except (ConfigError, OSError) as error:
            self._reload_failed = True
            self._log.error("reload failed, everything stays as it was:\n{error}", error=error)
            return False
        self._reload_failed = False
        self._adopt(state)
        self._log.info("reloaded")
        return True

    def _check_unchanged(self, settings: Config, problems: Problems) -> None:
        if not settings.configured:
            problems.add("upstream:main", "hosts", "to change to the quickstart needs a restart")
        before = listening(self._state.config)
        for section, addresses in listening(settings).items():
            if before.pop(section, None) != addresses:
                problems.add(section, "listen", "a new or changed address needs a restart")
        for section in before:
            problems.add(section, "listen", "to remove a listener needs a restart")
        now = self._state.config
        if settings.audit != now.audit:
            problems.add("audit", "file", "a change needs a restart")
        if settings.registry != now.registry:
            problems.add("registry", "database", "a change in this section needs a restart")
        if _lasting(settings.hub) != _lasting(now.hub):
            problems.add("hub", "database", "a change in this section needs a restart, and so does a first or last hub")

    def _adopt(self, state: State) -> None:
        self._state = state
        limits = state.config.limits
        self.cancels.rate.per_second = limits.cancel_rate
        for warning in state.config.warnings:
            self._log.warn("{warning}", warning=warning)
        if self.connections is not None:
            # Made under the old trust; whoever still has that makes new ones.
            self.connections.pool.retain(lambda _: False)
            self.connections.limit = limits.max_connections
            self.connections.subjects.limit = limits.max_connections_per_subject
            self.connections.addresses.limit = limits.max_connections_per_address
        most = limits.max_connections + waiting_room(limits.max_connections)
        self._raise_descriptor_limit(_SPARE_DESCRIPTORS + MAX_IDLE + 2 * most)

    def _raise_descriptor_limit(self, wanted: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted and soft != hard:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            self._log.warn(
                "[limits] max_connections: {wanted} open files are needed, the system allows {soft} (ulimit -n)",
                wanted=wanted,
                soft=soft,
            )

    # --- life -------------------------------------------------------------------------------------------------------

    def bind(self) -> None:
        """Open the audit file and all listening sockets. Raises ConfigError, with nothing left bound."""
        problems = Problems()
        with problems.at("audit", "file"):
            self._audit = Audit(self._state.config.audit.file)
        for section, addresses in listening(self._state.config).items():
            for address in addresses:
                try:
                    self._bound += [(section, sock) for sock in listener.bind(address)]
                except OSError as error:
                    problems.add(section, "listen", f"{address}: {error.strerror or error}")
        if problems.found:
            for _, sock in self._bound:
                sock.close()
            self._close_hub()
        problems.raise_if_any()

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated
        assert self._audit is not None  # bind comes first
        self._poller = Poller(self._reactor)
        self.connections = Connections(self._reactor, self._poller, self._audit)
        self._adopt(self._state)
        self.connections.start()
        if self._demo is not None:
            self._demo.start(self._reactor)
        self._reactor.callWhenRunning(self._catch_signals)
        self._reactor.callWhenRunning(_collect_rarely)
        known: Deferred[None] = self._registry.start() if self._registry is not None else succeed(None)
        known.addCallbacks(self._listen, self._give_up)

    def _listen(self, _: None) -> None:
        """Everything is known that may be asked for."""
        if not self.running:
            return
        assert self._poller is not None  # it comes first
        self._listening = True
        for name, sock in self._bound:
            one = listener.Listener(self._reactor, self._poller, sock, self._accepted(name))
            one.start()
            self._listeners[one] = name
        addresses = ", ".join(str(one) for several in listening(self._state.config).values() for one in several)
        self._log.info("listening on {addresses}", addresses=addresses)

    def _give_up(self, failure: Failure) -> None:
        """The registry cannot be read. Later that is borne for a while; at the start nothing is known at all."""
        if not self.running:
            return
        sys.stderr.write(f"[registry] database: {failure.getErrorMessage()}\n")
        # By itself twistd would end with status 0.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        self._end()

    def _accepted(self, name: str) -> Callable[[socket.socket, Any], None]:
        def accepted(sock: socket.socket, peer: Any) -> None:
            assert self.connections is not None  # listeners start after it
            self.connections.open(self._state.doors[name], sock, peer)

        return accepted

    def stopService(self) -> Deferred[None]:
        """Stop accepting, end every session in order, then free the rest."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated
        self._stop_listening(lambda name: name != HEALTH)
        if self.connections is None:
            return succeed(None).addCallback(self._stopped)
        if len(self.connections):
            self._log.info("stopping: {n} connections", n=len(self.connections))
        return self.connections.drain().addBoth(self._stopped)

    def _stop_listening(self, chosen: Callable[[str], bool]) -> None:
        for one, name in tuple(self._listeners.items()):
            if chosen(name):
                one.stop()
                del self._listeners[one]

    def _stopped(self, _: Failure | None) -> Deferred[None] | None:
        # Until now it could be asked whether anything is still open here.
        self._stop_listening(lambda _: True)
        if self.connections is not None:
            self.connections.pool.close_all()
        self._close_hub()
        if self._poller is not None:
            self._poller.close()
        if self._audit is not None:
            self._audit.close()
        self._stop_quickstart()
        ends = [one.stop() for one in (self._demo, self._registry) if one is not None]
        return gatherResults(ends).addCallback(lambda _: None)

    def await_reactor(self) -> None:
        """An end that comes before the reactor runs waits for it: what a signal raises here, Twisted may swallow."""
        for ending in _ENDINGS:
            signal.signal(ending, lambda *_: self._reactor.callWhenRunning(self._end))

    def _catch_signals(self) -> None:
        """twistd would end by the signal itself; an orderly end has status 0. A second signal does not wait."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        for ending in _ENDINGS:
            signal.signal(ending, lambda *_: self._reactor.callFromThread(self._end))

    def _end(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            self._log.warn("stopping at once")
            self._stop_quickstart()
            os._exit(1)


def _lasting(hub: HubFile | None) -> HubFile | None:
    """Without what follows from the listeners: it is only a shortcut of the hub's."""
    return replace(hub, settings=replace(hub.settings, max_packet_size=0)) if hub is not None else None


def _registry(reactor: Any, settings: Config) -> Registry | None:
    return open_registry(settings.registry, reactor) if settings.registry is not None else None


def _collect_rarely() -> None:
    """What was made for the start stays, and connections take care to leave no cycles behind: looking for some after
    every 700 objects, as Python does by itself, would cost a tenth of each HTTP request."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)


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

    for ending in _ENDINGS:
        signal.signal(ending, leave)
    # Not SIG_IGN, which the programs that we start would inherit.
    signal.signal(signal.SIGHUP, lambda *_: None)


def makeService(options: Mapping[str, Any], reactor: Any = None, environ: Mapping[str, str] = os.environ) -> Gateway:
    """The composition root, as twistd calls it. Ends the process with status 1 if it cannot be started."""
    if reactor is None:
        from twisted.internet import reactor  # noqa: PLC0415 - importing it installs it, which twistd has to do first
    # Taken once: with --rundir a reload would find another one.
    folder = Path.cwd()
    path = Path(options["config"]) if options["config"] else None
    demo: Quickstart | None = None

    def load(problems: Problems) -> Config:
        settings = config.load(path, environ, folder, problems)
        return demo.complete(settings) if demo and not settings.configured else settings

    def stop() -> None:
        if demo:
            demo.stop()

    _catch_early_signals()
    problems = Problems()
    try:
        settings = load(problems)
        if not settings.configured:
            problems.raise_if_any()
            demo = prepare(settings, _say)
            settings = demo.config
        gateway = Gateway(reactor, settings, problems, load, stop, _application(demo))
        gateway.bind()
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
