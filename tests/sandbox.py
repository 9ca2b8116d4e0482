"""Becomes another program under what a unit file says of system calls, memory and address families, as systemd would
lay it on a service: python sandbox.py UNIT PROGRAM ARGUMENT...

Owns the three of the unit's options that can break a program in ways that no reading of the file shows:
SystemCallFilter, MemoryDenyWriteExecute and RestrictAddressFamilies. It does what systemd's own code for them does
(src/shared/seccomp-util.c), through the same libseccomp. What namespaces and mounts do is not done here.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterable
from ctypes.util import find_library
from pathlib import Path

_PR_SET_NO_NEW_PRIVS = 38
_ALLOW = 0x7FFF0000
_DENY = 0x00050000 | errno.EPERM
_NO_FAMILY = 0x00050000 | errno.EAFNOSUPPORT
# scmp_compare
_MASKED_EQUAL = 7
_SHM_EXEC = 0o100000


class _Comparison(ctypes.Structure):
    """struct scmp_arg_cmp"""

    _fields_ = (("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64))


def library() -> ctypes.CDLL | None:
    found = find_library("seccomp")
    return ctypes.CDLL(found, use_errno=True) if found else None


class Filter:
    """One seccomp filter. default: what happens to system calls without a rule."""

    def __init__(self, default: int) -> None:
        lib = library()
        assert lib is not None, "libseccomp is missing"
        self._lib = lib
        lib.seccomp_init.restype = ctypes.c_void_p
        self._context = ctypes.c_void_p(lib.seccomp_init(ctypes.c_uint32(default)))

    def add(self, action: int, name: str, *comparisons: tuple[int, int, int, int]) -> None:
        """A rule for the call of that name; none where this machine has no such call."""
        number = self._lib.seccomp_syscall_resolve_name(name.encode())
        if number < 0:
            return
        array = (_Comparison * len(comparisons))(*(_Comparison(*one) for one in comparisons))
        failed = self._lib.seccomp_rule_add_array(self._context, ctypes.c_uint32(action), number, len(array), array)
        assert not failed, f"{name}: {os.strerror(-failed)}"

    def load(self) -> None:
        failed = self._lib.seccomp_load(self._context)
        assert not failed, os.strerror(-failed)


def options(unit: Path, name: str) -> list[str]:
    return re.findall(rf"(?m)^{name}=(.*)$", unit.read_text())


def calls(filters: Iterable[str]) -> set[str]:
    """What the lines of SystemCallFilter allow, in their order; the first of them says what is allowed at all."""
    allowed: set[str] = set()
    for line in filters:
        named = {call for word in line.removeprefix("~").split() for call in _expanded(word)}
        allowed = allowed - named if line.startswith("~") else allowed | named
    return allowed


def _expanded(word: str) -> set[str]:
    if not word.startswith("@"):
        return {word}
    told = subprocess.run(["systemd-analyze", "syscall-filter", word], capture_output=True, text=True, check=True)
    inside = [line.strip() for line in told.stdout.splitlines()[1:]]
    return {call for one in inside if one and not one.startswith("#") for call in _expanded(one)}


def _restrict(unit: Path) -> None:
    restricted = Filter(_ALLOW)
    if options(unit, "MemoryDenyWriteExecute") == ["yes"]:
        both, execute = mmap.PROT_WRITE | mmap.PROT_EXEC, mmap.PROT_EXEC
        restricted.add(_DENY, "mmap", (2, _MASKED_EQUAL, both, both))
        restricted.add(_DENY, "mprotect", (2, _MASKED_EQUAL, execute, execute))
        restricted.add(_DENY, "pkey_mprotect", (2, _MASKED_EQUAL, execute, execute))
        restricted.add(_DENY, "shmat", (2, _MASKED_EQUAL, _SHM_EXEC, _SHM_EXEC))
    for families in options(unit, "RestrictAddressFamilies"):
        numbers = {int(getattr(socket, family)) for family in families.split()}
        for other in set(range(64)) - numbers:
            restricted.add(_NO_FAMILY, "socket", (0, _MASKED_EQUAL, 0xFFFFFFFF, other))
    allowed = Filter(_DENY)
    for call in sorted(calls(options(unit, "SystemCallFilter"))):
        allowed.add(_ALLOW, call)
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0
    restricted.load()
    allowed.load()


if __name__ == "__main__":
    _restrict(Path(sys.argv[1]))
    os.execv(sys.argv[2], sys.argv[2:])  # noqa: S606 - that is all that it is for
