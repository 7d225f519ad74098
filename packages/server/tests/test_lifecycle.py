"""`python -m subquad.server serve` as a process: start, announce, signals, exit status."""

import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from packages.server.tests.tiny_engine import tiny_checkpoint
from subquad.server import GenomicsClient

READY = re.compile(r"^serving (\S+) on (127\.0\.0\.1:\d+)$", re.MULTILINE)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny")


def command(*arguments):
    return [sys.executable, "-m", "subquad.server", "serve", *map(str, arguments)]


class Process:
    """A serving process, killed at the end of the block."""

    def __init__(self, *arguments):
        self._popen = subprocess.Popen(
            command(*arguments), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, bufsize=1
        )

    def __enter__(self):
        self.seen = ""
        while not (found := READY.search(self.seen)):
            line = self._popen.stdout.readline()
            assert line, self.seen
            self.seen += line
        self.name, self.address = found.groups()
        return self

    def signal(self, number):
        self._popen.send_signal(number)

    def wait(self, seconds=20):
        status = self._popen.wait(seconds)
        self.seen += self._popen.stdout.read()
        return status

    def __exit__(self, *_):
        self._popen.kill()
        self._popen.wait()
        self._popen.stdout.close()


def failure(*arguments):
    """The exit status and the error line of a server that does not start."""
    ran = subprocess.run(command(*arguments), capture_output=True, text=True, timeout=50)
    assert "Traceback" not in ran.stderr
    assert ran.stdout == ""
    assert len(ran.stderr.splitlines()) == 1, ran.stderr
    return ran.returncode, ran.stderr


def test_sigterm_lets_running_streams_end_and_exits_with_zero(checkpoint):
    with Process(checkpoint, "--bind", "127.0.0.1:0") as server, GenomicsClient(server.address, timeout=30) as client:
        assert server.name == "tiny"
        assert client.is_serving()
        streams = [client.generate("ACGT", max_new_tokens=150, ignore_end_of_document=True) for _ in range(3)]
        for stream in streams:
            next(stream)
        server.signal(signal.SIGTERM)
        assert [len(stream.result()[0].ids) for stream in streams] == [150] * 3
        assert server.wait() == 0
        assert server.seen.count("\n") == 1


def test_a_second_signal_exits_at_once(checkpoint):
    with Process(checkpoint, "--bind", "127.0.0.1:0") as server, GenomicsClient(server.address, timeout=30) as client:
        stream = client.generate("ACGT", max_new_tokens=4000, ignore_end_of_document=True, tokens_per_message=1)
        next(stream)
        server.signal(signal.SIGINT)
        time.sleep(0.3)
        start = time.monotonic()
        server.signal(signal.SIGTERM)
        assert server.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - start < 2


def test_it_listens_on_loopback_alone_and_a_second_server_on_the_port_fails(checkpoint):
    with Process(checkpoint, "--bind", "127.0.0.1:0", "--metrics-port", "0") as server:
        port = int(server.address.rpartition(":")[2])
        metrics = int(re.search(r"127\.0\.0\.1:(\d+)/metrics", server.seen)[1])
        for listened in (port, metrics):
            assert {bytes.fromhex(address) for address in listening(listened)} == {socket.inet_aton("127.0.0.1")[::-1]}
        status, line = failure(checkpoint, "--bind", server.address)
        assert (status, line) == (1, f"error: cannot listen on {server.address}: the port is taken\n")


def listening(port):
    """The local IPv4 addresses, as hexadecimal words, on which somebody listens at a port."""
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
    listeners = [row[1] for row in rows if row[3] == "0A" and int(row[1].rpartition(":")[2], 16) == port]
    return {address.rpartition(":")[0][-8:] for address in listeners}


def test_another_interface_without_tls_exits_with_two(checkpoint):
    status, line = failure(checkpoint, "--bind", "0.0.0.0")
    assert status == 2
    assert line.startswith("error: bind is 0.0.0.0:50051, which other machines can reach, without TLS; accepted: ")
