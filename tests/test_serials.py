"""Serial numbers, as they are written."""

from __future__ import annotations

import pytest

from gateway.serials import serial_number, serial_text


@pytest.mark.parametrize(
    ("serial", "text"), [(0, "00"), (1, "01"), (0xFF, "ff"), (0xA1B, "0a1b"), (1 << 158, "40" + "00" * 19)]
)
def test_all_its_digits(serial: int, text: str) -> None:
    assert serial_text(serial) == text
    assert serial_number(text) == serial


@pytest.mark.parametrize(
    "text", ["a1b", "0a1b", "0A1B", "0A:1B", "0a:1b", "a:1b", "00:0A:1B", "0xa1b", "0X0A1B", "0" * 61 + "a1b"]
)
def test_all_of_these_are_one(text: str) -> None:
    assert serial_number(text) == 0xA1B


@pytest.mark.parametrize(
    "text", ["", "0x", ":", "a:", ":a", "a::b", "a1b:0", "0x0a:1b", "g", "-1", "+1", "1_2", " 1", "1\n", "٣", "1" * 65]
)
def test_none_of_these_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="is not a serial number in hexadecimal"):
        serial_number(text)
