"""How much the hub keeps, of what and for how long.

Owns the numbers; each is a bound on what one client, or all of them, can make the process hold.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class HubSettings:
    """max_packet_size: bytes of the largest packet that a session lets in; a client that takes as much needs no check.
    receive_maximum: messages of QoS 1 and 2 that a client may have unanswered.
    max_inflight: those that a client before 5.0, which cannot say it, is sent at once.
    max_queued, max_queued_bytes: messages of QoS 1 and 2, and their bytes, that wait for one session.
    max_owner_bytes, max_total_bytes: for all sessions of one owner, and for all there are.
    max_retained, max_retained_bytes: retained messages and their bytes.
    max_sessions, max_owner_sessions: sessions kept without a connection, all of them and of one owner.
    max_subscriptions, max_filter_bytes: subscriptions of one session, and the bytes that they take, most of
    which are some 400 for each level.
    max_session_expiry: seconds that a session is kept; before 5.0, where a client cannot say it, all of them.
    topic_alias_maximum: aliases that are used towards one client.
    sys_interval: seconds between the messages of `$SYS`.
    """

    max_packet_size: int = 262_144
    receive_maximum: int = 100
    max_inflight: int = 20
    max_queued: int = 1_000
    max_queued_bytes: int = 16_777_216
    max_owner_bytes: int = 67_108_864
    max_total_bytes: int = 268_435_456
    max_retained: int = 10_000
    max_retained_bytes: int = 67_108_864
    max_sessions: int = 10_000
    max_owner_sessions: int = 20
    max_subscriptions: int = 1_000
    max_filter_bytes: int = 2_097_152
    max_session_expiry: int = 604_800
    topic_alias_maximum: int = 32
    sys_interval: float = 10.0
