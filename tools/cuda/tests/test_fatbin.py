"""Reading fat binaries that are put together here, byte by byte."""

import struct
from pathlib import Path

import pytest

from tools.cuda.fatbin import DeviceCode, device_code


def entry(kind: int, architecture: int, flags: int, content: bytes) -> bytes:
    header = struct.pack("<HHIQ12xI8xI20x", kind, 0x101, 64, len(content), architecture, flags)
    assert len(header) == 64
    return header + content


def fat_binary(*entries: bytes) -> bytes:
    body = b"".join(entries)
    return struct.pack("<IHHQ", 0xBA55ED50, 1, 16, len(body)) + body


def test_every_entry_of_every_fat_binary_is_listed(tmp_path: Path) -> None:
    first = fat_binary(entry(2, 80, 0x11, b"\x7fELF one"), entry(2, 90, 0x100011, b"\x7fELF two"))
    second = fat_binary(entry(1, 90, 0x11, b".version 9.0"))
    file = tmp_path / "library.so"
    file.write_bytes(b"some host code" + first + b"more of it" + second + b"\0" * 9)
    assert device_code(file) == [
        DeviceCode("cubin", "sm_80", b"\x7fELF one"),
        DeviceCode("cubin", "sm_90a", b"\x7fELF two"),
        DeviceCode("ptx", "sm_90", b".version 9.0"),
    ]


def test_code_is_searched_for_a_symbol() -> None:
    assert DeviceCode("cubin", "sm_80", b"..causal_fir..").names("causal_fir")
    assert not DeviceCode("cubin", "sm_80", b"..causal_fir..").names("modal")


def test_a_file_without_device_code_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "plain.so"
    file.write_bytes(b"\x7fELF only host code")
    with pytest.raises(ValueError, match=r"plain\.so holds no device code"):
        device_code(file)
