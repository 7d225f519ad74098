"""A process that follows: ``python -m subquad.inference.tensor_parallel.worker FILE_DESCRIPTOR``."""

import contextlib
import os
import pickle
import queue
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any, NoReturn

import torch
from torch._C._distributed_c10d import TCPStore

from subquad.inference.tensor_parallel.following import Follower
from subquad.inference.tensor_parallel.workers import HOST, await_every_rank, await_point, join
from subquad.modules import ModulesError


def main() -> None:
    """Builds this rank's part, then does what comes, until the end is asked for or the leader is gone."""
    connection = Connection(int(sys.argv[1]))
    messages: queue.SimpleQueue[Any] = queue.SimpleQueue()
    threading.Thread(target=_receive, args=(connection, messages), daemon=True).start()
    try:
        first = messages.get()
        store = TCPStore(HOST, first["port"], is_master=False)
        await_point(store, "started", first["rank"], first["size"], None)
        shards, device = join(store, first["rank"], first["size"], first["device"])
        follower = Follower(first["build"](shards, device).eval())
        await_point(store, "built", first["rank"], first["size"], None)
        await_every_rank(device)
        while (message := messages.get())[0] != "end":
            try:
                with torch.inference_mode():
                    follower.obey(*message)
            except ModulesError:
                pass  # the leader refuses alike and says so
    except BaseException as error:
        _end_with(connection, error)
    os._exit(0)  # with no word from the process group, which the leader takes down too


def _receive(connection: Connection, messages: "queue.SimpleQueue[Any]") -> None:
    """Passes messages on; a rank whose leader has gone ends, even inside a sum."""
    try:
        while True:
            messages.put(pickle.loads(connection.recv_bytes()))
    except (EOFError, OSError):
        os._exit(1)
    except BaseException as error:  # such as a class that only the leader can import
        _end_with(connection, error)


def _end_with(connection: Connection, error: BaseException) -> NoReturn:
    """Says why and ends, whatever this rank was waiting for."""
    with contextlib.suppress(OSError):
        connection.send_bytes(pickle.dumps(f"{type(error).__name__}: {error}"))
    os._exit(1)


if __name__ == "__main__":
    main()
