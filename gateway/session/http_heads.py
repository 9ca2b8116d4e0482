"""Heads that come again and again: each is parsed, and written anew, once for as long as it is remembered.

A device sends the same head with each message, and a busy upstream answers alike within a second. Whatever is the same
to the byte means the same, so only time is saved. Owns what is remembered: heads of up to 2 KiB, and not many.
"""

from __future__ import annotations

from functools import lru_cache

from gateway.wire.http1 import RequestHead, ResponseHead, parse_request, parse_response

_REMEMBERED = 2048

_request = lru_cache(maxsize=512)(parse_request)
_response = lru_cache(maxsize=512)(parse_response)


def known_request(raw: bytes) -> RequestHead:
    """The same object for the same bytes, while they are remembered. Raises `http1.Refused`."""
    return _request(raw) if len(raw) <= _REMEMBERED else parse_request(raw)


def known_response(raw: bytes) -> ResponseHead:
    """As `parse_response`."""
    return _response(raw) if len(raw) <= _REMEMBERED else parse_response(raw)


def lines(head: ResponseHead) -> bytes:
    """The status line and the end-to-end fields, without the empty line."""
    status = b"HTTP/1.1 %d %b\r\n" % (head.status, head.reason)
    return status + b"".join([b"%b: %b\r\n" % (name, value) for _, name, value in head.fields])


def _written(raw: bytes, chunked: bool, keep: bool, http11: bool) -> bytes:
    head = known_response(raw)
    framing = b""
    if chunked:
        framing = b"Transfer-Encoding: chunked\r\n"
    elif head.length >= 0 and head.status != 204:
        framing = b"Content-Length: %d\r\n" % head.length
    if not keep:
        framing += b"Connection: close\r\n"
    elif not http11:
        framing += b"Connection: keep-alive\r\n"
    return b"%b%b\r\n" % (lines(head), framing)


_told = lru_cache(maxsize=512)(_written)


def told_response(raw: bytes, chunked: bool, keep: bool, http11: bool) -> bytes:
    """An upstream's head as the client gets it. chunked: the body is sent in chunks. keep: the connection goes on."""
    return (_told if len(raw) <= _REMEMBERED else _written)(raw, chunked, keep, http11)
