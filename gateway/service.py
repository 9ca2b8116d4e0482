"""The gateway as a service of Twisted's: what listens, what it is reloaded from, and how it ends.

Owns the process's parts and their order: what is built before anything is bound, what starts, and what stops. Whatever
is wrong at a reload leaves everything as it was.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from twisted.application import service
from twisted.internet.defer import Deferred, gatherResults, maybeDeferred, succeed
from twisted.internet.error import ReactorNotRunning
from twisted.internet.task import LoopingCall
from twisted.logger import Logger
from twisted.python.failure import Failure

from gateway import control, systemd
from gateway.audit import Audit
from gateway.doors import HEALTH, Doors, State, listening
from gateway.errors import ConfigError, Problems
from gateway.hub_opening import lasting, open_hub
from gateway.inspection.expiry import ExpiryWatch
from gateway.net import listener
from gateway.net.connections import Connections, waiting_room
from gateway.net.control import Control
from gateway.net.key_fetch import KeyFetch, Source, sources
from gateway.net.operations import Operations
from gateway.net.poller import Poller
from gateway.net.pool import MAX_IDLE
from gateway.registry.service import Registry, open_registry
from gateway.session.cancel import CancelKeys
from gateway.session.health import Health
from gateway.settings import Config

if TYPE_CHECKING:
    from gateway.demo import DemoApplication

# Descriptors that a process needs besides two for each connection.
_SPARE_DESCRIPTORS = 64

ENDINGS = (signal.SIGTERM, signal.SIGINT)

_UNCHANGED = "the reload failed, and everything stays as it was"
_HALF_DONE = "the reload broke off, and a part of what is new is in force: restart the gateway"
_BUG = ("a bug in the gateway (see its log)",)


class Gateway(service.Service):
    """The service. `bind` comes before anything runs.

    load: reads the configuration again, for a reload. stop_quickstart: called once at the end. notifier: told how we
    are. demo: what the quickstart's routes lead to. Raises ConfigError.
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
        notifier: systemd.Notifier,
        demo: DemoApplication | None = None,
    ) -> None:
        self._reactor, self._load, self._stop_quickstart, self._demo = reactor, load, stop_quickstart, demo
        self._notifier = notifier
        self._alive = LoopingCall(notifier.alive)
        self._alive.clock = reactor
        self.cancels = CancelKeys(settings.limits.cancel_rate)
        self._registry = _registry(reactor, settings)
        self._key_fetch = KeyFetch(reactor)
        self._expiry = ExpiryWatch(reactor, time.time)
        things = self._registry.things if self._registry is not None else None
        self._doors = Doors(
            lambda: self._state,
            self._health,
            self.cancels,
            hub=open_hub(settings.hub, problems, things, reactor.callLater),
            things=things,
            keys=self._key_fetch.keys,
            missing_key=self._key_fetch.wanted,
        )
        if things is not None and self._doors.hub is not None:
            things.deleted = self._doors.hub.end_sessions
        try:
            self._state, self._key_sources = self._build(settings, problems)
        except BaseException:
            self._close_hub()
            raise
        self._listening = False
        self._failed_reload: control.Refused | None = None
        self._bound: list[tuple[str, socket.socket]] = []
        self._listeners: dict[listener.Listener, str] = {}
        self._audit: Audit | None = None
        self._poller: Poller | None = None
        self._control: Control | None = None
        self.connections: Connections | None = None

    # --- configuration ----------------------------------------------------------------------------------------------

    def _health(self) -> Health:
        return Health(
            ready=bool(self.running and self._listening),
            last_reload_failed=self._failed_reload is not None,
            connections=len(self.connections) if self.connections is not None else 0,
            registry=self._registry.healthy if self._registry is not None else None,
            keys=self._key_fetch.healthy(),
            audit_failing=self._audit is not None and self._audit.failing,
        )

    def _build(self, settings: Config, problems: Problems) -> tuple[State, dict[str, Source]]:
        """Raises ConfigError."""
        found = sources(self._reactor, settings.jwt, problems)
        return self._doors.build(settings, problems), found

    def reload(self) -> bool:
        """Certificates, CRLs, keys, rules, limits and upstreams anew, for sessions to come: all or nothing."""
        told = self.running and self._listening
        if told:
            self._notifier.reloading()
        self._failed_reload = self._reload()
        if told:
            self._notifier.ready(
                "listening; the last reload failed, see the log" if self._failed_reload else "listening"
            )
        return self._failed_reload is None

    def _reload(self) -> control.Refused | None:
        """Why it failed. Never raises: systemd and whoever asked for it wait for its end."""
        problems = Problems()
        try:
            # Whatever becomes of the rest: after a rotation the old file is about to be compressed, and removed.
            if self._audit is not None:
                self._audit.reopen()
            settings = self._load(problems)
            if not listening(settings):
                # Nothing could be read, so nothing was removed either.
                problems.raise_if_any()
            self._check_unchanged(settings, problems)
            built = self._build(settings, problems)
        except (ConfigError, OSError) as error:
            self._log.error("reload failed, everything stays as it was:\n{error}", error=error)
            return control.Refused(_UNCHANGED, tuple(str(error).splitlines()))
        except Exception:  # noqa: BLE001 - fail closed, whatever it is
            self._log.failure("a bug: reload failed, everything stays as it was")
            return control.Refused(_UNCHANGED, _BUG)
        try:
            self._adopt(*built)
        except Exception:  # noqa: BLE001 - whatever it is, it has to be told
            self._log.failure("a bug: {what}", what=_HALF_DONE)
            return control.Refused(_HALF_DONE, _BUG)
        self._log.info("reloaded")
        return None

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
        if settings.control != now.control:
            problems.add("control", "socket", "a change needs a restart")
        if settings.registry != now.registry:
            problems.add("registry", "database", "a change in this section needs a restart")
        if lasting(settings.hub) != lasting(now.hub):
            problems.add("hub", "database", "a change in this section needs a restart, and so does a first or last hub")

    def _adopt(self, state: State, key_sources: Mapping[str, Source]) -> None:
        self._state = state
        self._key_fetch.adopt(key_sources)
        self._expiry.adopt(state.config)
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
            self.connections.reloaded()
        most = limits.max_connections + waiting_room(limits.max_connections)
        self._raise_descriptor_limit(_SPARE_DESCRIPTORS + MAX_IDLE + 2 * most)

    def _raise_descriptor_limit(self, wanted: int) -> None:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted and soft != hard:
            # Where that is refused (setrlimit(2), EPERM), what follows says what it means.
            with suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (hard if hard != resource.RLIM_INFINITY else wanted, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        if soft < wanted:
            self._log.warn(
                "[limits] max_connections: {wanted} open files are needed, the system allows {soft} (ulimit -n)",
                wanted=wanted,
                soft=soft,
            )

    # --- life -------------------------------------------------------------------------------------------------------

    def bind(self, passed: Sequence[socket.socket] = ()) -> None:
        """Open the audit file and all listening sockets. passed: those that systemd has opened, each of which has to be
        configured as well. Raises ConfigError, with nothing left bound."""
        problems, left = Problems(), list(passed)
        with problems.at("audit", "file"):
            self._audit = Audit(self._state.config.audit.file)
        for section, addresses in listening(self._state.config).items():
            for address in addresses:
                try:
                    self._bound += [(section, sock) for sock in systemd.take(address, left) or listener.bind(address)]
                except OSError as error:
                    problems.add(section, "listen", f"{address}: {error.strerror or error}")
        if self._state.config.control is not None:
            self._control = Control(self._reactor, self._state.config.control)
            with problems.at("control", "socket"):
                self._control.bind()
        for sock in left:
            reason = f"{systemd.address_of(sock)}: no listen of the configuration is exactly this address"
            problems.add("Socket", "ListenStream", reason)
        if problems.found:
            for sock in (*left, *(sock for _, sock in self._bound)):
                sock.close()
            if self._control is not None:
                self._control.stop()
            self._close_hub()
        problems.raise_if_any()

    def startService(self) -> None:
        super().startService()  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated
        assert self._audit is not None  # bind comes first
        self._poller = Poller(self._reactor)
        self.connections = Connections(self._reactor, self._poller, self._audit)
        self._adopt(self._state, self._key_sources)
        self.connections.start()
        self._expiry.start()
        if self._notifier.watchdog is not None:
            self._alive.start(self._notifier.watchdog)
        if self._demo is not None:
            self._demo.start(self._reactor)
        self._reactor.callWhenRunning(self._catch_signals)
        self._reactor.callWhenRunning(_collect_rarely)
        keys = self._key_fetch.start()
        known: Deferred[None] = self._registry.start() if self._registry is not None else succeed(None)
        known.addCallback(lambda _: keys)
        known.addCallbacks(self._listen, self._give_up).addErrback(self._end_unheard)

    def _listen(self, _: None) -> None:
        """Everything is known that may be asked for."""
        if not self.running:
            return
        assert self._poller is not None  # it comes first
        self._listening = True
        if self._control is not None:
            assert self.connections is not None  # so do they
            self._control.start(
                self._poller,
                Operations(
                    self.connections,
                    lambda: self._state.doors,
                    lambda: None if self.reload() else self._failed_reload,
                    self._key_fetch.unfetched,
                    self._drain,
                ),
            )
        for name, sock in self._bound:
            one = listener.Listener(self._reactor, self._poller, sock, self._accepted(name))
            one.start()
            self._listeners[one] = name
        # Not before signals are ours: whoever reads this may send one at once.
        self._reactor.callWhenRunning(self._say_ready)

    def _say_ready(self) -> None:
        addresses = ", ".join(str(one) for several in listening(self._state.config).values() for one in several)
        self._log.info("listening on {addresses}", addresses=addresses)
        self._notifier.ready("listening")

    def _give_up(self, failure: Failure) -> None:
        """The registry cannot be read. Later that is borne for a while; at the start nothing is known at all."""
        if self.running:
            self._fail(f"[registry] database: {failure.getErrorMessage()}")

    def _end_unheard(self, failure: Failure) -> None:
        """Nobody would ever be let in, and nobody told."""
        self._log.failure("the gateway cannot begin to listen", failure)
        self._fail(f"the gateway cannot begin to listen: {failure.getErrorMessage()}")

    def _fail(self, reason: str) -> None:
        sys.stderr.write(reason + "\n")
        # By itself twistd would end with status 0.
        self._reactor.addSystemEventTrigger("after", "shutdown", os._exit, 1)
        # Not before it runs: as a daemon it has told nobody yet that it was started, and twistd would wait for that.
        self._reactor.callWhenRunning(self._end)

    def _accepted(self, name: str) -> Callable[[socket.socket, Any], None]:
        def accepted(sock: socket.socket, peer: Any) -> None:
            assert self.connections is not None  # listeners start after it
            self.connections.open(self._state.doors[name], sock, peer)

        return accepted

    def stopService(self) -> Deferred[None]:
        """Stop accepting, end every session in order, then free the rest."""
        super().stopService()  # type: ignore[no-untyped-call]  # Twisted leaves it unannotated
        self._notifier.stopping(self._state.config.gateway.shutdown_grace)
        self._stop_listening(lambda name: name != HEALTH)
        self._key_fetch.stop()
        self._expiry.stop()
        if self.connections is None:
            return succeed(None).addCallback(self._stopped)
        if len(self.connections):
            self._log.info("stopping: {n} connections", n=len(self.connections))
        return maybeDeferred(self.connections.drain).addErrback(self._not_ended).addCallback(self._stopped)

    def _stop_listening(self, chosen: Callable[[str], bool]) -> None:
        for one, name in tuple(self._listeners.items()):
            if chosen(name):
                one.stop()
                del self._listeners[one]

    def _not_ended(self, failure: Failure) -> None:
        self._log.failure("a bug: a part of the gateway has not ended in order", failure)

    def _stopped(self, _: None) -> Deferred[None]:
        """Each part by itself: one that fails keeps no other from its end."""
        ends = [maybeDeferred(end).addErrback(self._not_ended) for end in self._ends()]
        return gatherResults(ends).addCallback(lambda _: None)

    def _close_hub(self) -> None:
        if self._doors.hub is not None:
            self._doors.hub.close()

    def _ends(self) -> Iterator[Callable[[], Deferred[None] | None]]:
        # Until now it could be asked whether anything is still open here.
        yield lambda: self._stop_listening(lambda _: True)
        if self._control is not None:
            yield self._control.stop
        if self.connections is not None:
            yield self.connections.pool.close_all
        yield self._close_hub
        if self._poller is not None:
            yield self._poller.close
        if self._audit is not None:
            yield self._audit.close
        yield self._stop_quickstart
        if self._alive.running:
            yield self._alive.stop
        yield self._notifier.close
        yield from (one.stop for one in (self._demo, self._registry) if one is not None)

    def await_reactor(self) -> None:
        """An end that comes before the reactor runs waits for it: what a signal raises here, Twisted may swallow."""
        for ending in ENDINGS:
            signal.signal(ending, lambda *_: self._reactor.callWhenRunning(self._end))

    def _catch_signals(self) -> None:
        """twistd would end by the signal itself; an orderly end has status 0. A second signal does not wait."""
        signal.signal(signal.SIGHUP, lambda *_: self._reactor.callFromThread(self.reload))
        for ending in ENDINGS:
            signal.signal(ending, lambda *_: self._reactor.callFromThread(self._end))

    def _drain(self) -> None:
        """As the first signal does; it is never the second, which does not wait."""
        if self.running:
            self._end()

    def _end(self) -> None:
        try:
            self._reactor.stop()
        except ReactorNotRunning:
            self._log.warn("stopping at once")
            self._stop_quickstart()
            os._exit(1)


def _registry(reactor: Any, settings: Config) -> Registry | None:
    return open_registry(settings.registry, reactor) if settings.registry is not None else None


def _collect_rarely() -> None:
    """What was made for the start stays, and connections take care to leave no cycles behind: looking for some after
    every 700 objects, as Python does by itself, would cost a tenth of each HTTP request."""
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)
