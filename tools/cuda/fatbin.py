"""Reads which GPU architectures a compiled file holds code for.

`cuobjdump` does this too, but is no part of the locked toolkit. A host object or shared library holds one "fat binary"
for each translation unit: a header, then entries of text (PTX) or machine code (a cubin, itself an ELF file).
"""

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = struct.pack("<I", 0xBA55ED50)
_HEADER = struct.Struct("<IHHQ")  # magic, version, header size, size of all entries
_ENTRY = struct.Struct("<HHIQ12xI8xI")  # kind, version, header size, data size, ..., architecture, ..., flags
_KINDS = {1: "ptx", 2: "cubin"}
_ARCHITECTURE_SPECIFIC = 0x100000  # the "a" of sm_90a


@dataclass(frozen=True)
class DeviceCode:
    """One entry of a fat binary: its kind ("ptx" or "cubin"), architecture ("sm_90a") and bytes."""

    kind: str
    architecture: str
    content: bytes

    def names(self, symbol: str) -> bool:
        """Says whether the (uncompressed) code names `symbol`."""
        return symbol.encode() in self.content


def device_code(path: Path) -> list[DeviceCode]:
    """Lists every piece of device code in an object file, executable or shared library.

    Raises:
      ValueError: The file holds no fat binary.
    """
    data = path.read_bytes()
    found: list[DeviceCode] = []
    at = data.find(_MAGIC)
    while at >= 0:
        _, _, header_size, size = _HEADER.unpack_from(data, at)
        entry, end = at + header_size, at + header_size + size
        while entry < end <= len(data):
            kind, _, entry_header, length, number, flags = _ENTRY.unpack_from(data, entry)
            suffix = "a" if flags & _ARCHITECTURE_SPECIFIC else ""
            start = entry + entry_header
            found.append(DeviceCode(_KINDS.get(kind, str(kind)), f"sm_{number}{suffix}", data[start : start + length]))
            entry = start + length
        at = data.find(_MAGIC, at + len(_MAGIC))
    if not found:
        raise ValueError(f"{path} holds no device code")
    return found
