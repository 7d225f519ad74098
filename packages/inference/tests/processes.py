"""The processes that follow a leader, as the system sees them."""

from pathlib import Path

_NAMELESS = "[c10d] The hostname of the client socket cannot be retrieved"  # torch's note where addresses have no names


def own_words(stderr: str) -> str:
    """Returns what our own code said."""
    return "".join(line for line in stderr.splitlines(keepends=True) if _NAMELESS not in line)


def followers(parent: int) -> list[int]:
    """Returns the processes of ours that follow a leader."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_bytes()
        except OSError:  # it has ended
            continue
        if int(status[1]) == parent and status[0] != "Z" and b"tensor_parallel.worker" in command:
            found.append(int(entry.name))
    return found


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
