"""The processes that follow: started, given their part of the network, told what to do, and ended."""

import contextlib
import multiprocessing
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch._C._distributed_c10d import Store, TCPStore

from subquad.inference.decode_program import DecodeProgram
from subquad.inference.errors import InferenceError, InvalidOption, WorkerFailed
from subquad.inference.tensor_parallel.leading import LeadingNetwork
from subquad.modules import ChannelShards, ModulesError
from subquad.parallel import TensorShards

PartBuilder = Callable[[ChannelShards, torch.device], nn.Module]
_WORKER = "subquad.inference.tensor_parallel.worker"
HOST = "127.0.0.1"
_PATIENCE = 20.0  # seconds that a worker is given to end
_VERDICT = 1.0  # seconds in which the end of a worker is known, where it is why a sum failed here
_PAUSE = 0.02  # seconds between looks at how far the other ranks are


class ShardWorkers:
    """The workers of one network, ranks 1 to ``size - 1``; rank 0 is this process.

    What is sent is done by every worker in the order of sending, beside what this process does itself; only the sums of
    the layers' outputs keep the ranks together. A worker that ends unasked, or a call that failed on this rank alone,
    ends them all: the ranks would no longer be at the same place.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._lock = threading.Lock()
        self._dropped: deque[int] = deque()
        self.failure: str | None = None
        self._failed = threading.Event()
        self._silent = threading.Event()  # a worker has closed its pipe
        self._closing = False
        self._leaving = threading.Lock()
        self._in_group = False
        self._programs: weakref.WeakSet[DecodeProgram] = weakref.WeakSet()
        self._connections: list[Connection] = []
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, message: dict[str, Any]) -> None:
        """Starts the processes; each first gets ``message`` with its rank."""
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        for rank in range(1, self.size):
            ours, theirs = multiprocessing.Pipe()
            command = [sys.executable, "-m", _WORKER, str(theirs.fileno())]
            process = subprocess.Popen(
                command,
                env=environment,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                process_group=0,  # so that Ctrl-C is for the leader alone, which then ends the others
            )
            theirs.close()
            self._connections.append(ours)
            self._processes.append(process)
            threading.Thread(target=self._watch, args=(rank, process, ours), daemon=True).start()
        for rank in range(1, self.size):
            self._put(self._connections[rank - 1], {**message, "rank": rank})

    def send(self, name: str, *arguments: Any) -> None:
        """Tells every worker to do something.

        Raises:
          WorkerFailed: A worker has ended.
        """
        with self._lock:
            self.require_alive()
            while self._dropped:
                self._put_all(("drop_state", self._dropped.popleft()))
            self._put_all((name, *arguments))

    def drop_state(self, number: int) -> None:
        """Gives a state back before anything else is done; called by the collector of garbage, at any moment."""
        self._dropped.append(number)

    def joined_group(self) -> None:
        """Says that this process is in the process group of these workers, and has to leave it."""
        self._in_group = True

    def release_at_end(self, program: DecodeProgram) -> None:
        """Gives the captured steps of a program back when the ranks part: NCCL waits for graphs that hold sums."""
        self._programs.add(program)

    def require_alive(self) -> None:
        """Raises unless all workers are at work.

        Raises:
          WorkerFailed: One is not; says what it said last.
        """
        if self.failure is not None:
            raise WorkerFailed(self.failure)

    @contextlib.contextmanager
    def together(self, name: str, *arguments: Any) -> Iterator[None]:
        """Lets the workers do what this process does inside the block."""
        try:
            self.send(name, *arguments)
            yield
        except ModulesError:
            raise  # every rank refuses alike, before anything was summed
        except BaseException as error:
            failure = self.why(error) or f"rank 0 failed in {name}: {type(error).__name__}: {error}"
            self.end(failure)
            self._part()
            if isinstance(error, WorkerFailed):
                raise
            if isinstance(error, Exception):
                raise WorkerFailed(failure) from error
            raise

    def why(self, error: BaseException) -> str | None:
        """Returns why a worker ended, where one did; a sum that fails for it may say so before that is known."""
        if isinstance(error, Exception) and not isinstance(error, InferenceError | ModulesError):
            self._await_verdict()
        return self.failure

    def _await_verdict(self) -> None:
        """Waits until it is known which worker ended, if one did; one that held a GPU is silent long before its end."""
        if self._closing or self._failed.wait(_VERDICT):
            return
        if self._silent.is_set():
            self._failed.wait(_PATIENCE)

    def end(self, failure: str) -> None:
        """Ends all workers at once, so that no later call can meet a rank that is somewhere else."""
        self.failure = self.failure or failure
        self._failed.set()
        self._closing = True
        for process in self._processes:
            process.kill()

    def close(self) -> None:
        """Lets the workers finish and ends them, and leaves the process group."""
        with self._lock:
            if self.failure is None and not self._closing:
                self._closing = True
                with contextlib.suppress(WorkerFailed):
                    self._put_all(("end",))
            self.failure = self.failure or "the network was closed"
        for process in self._processes:
            try:
                process.wait(_PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        for connection in self._connections:
            connection.close()
        if self._failed.is_set():
            self._part()
        else:
            self._release()
            self._leave_group()

    def _release(self) -> None:
        for program in list(self._programs):
            program.release()

    def _part(self) -> None:
        """Leaves the process group while sums may hang: leaving ends them, and waits for the captured steps to go."""
        leaving = threading.Thread(target=self._leave_group, daemon=True)
        leaving.start()
        self._release()
        leaving.join(_PATIENCE)

    def _leave_group(self) -> None:
        """Leaves the process group without waiting for sums that a rank which has gone will never add to."""
        with self._leaving:
            if not self._in_group or not dist.is_initialized():
                return
            self._in_group = False
            if dist.get_backend() == "nccl":
                dist.distributed_c10d._abort_process_group()
            else:
                dist.destroy_process_group()

    def _put_all(self, message: object) -> None:
        for connection in self._connections:
            self._put(connection, message)

    def _put(self, connection: Connection, message: object) -> None:
        try:
            connection.send_bytes(pickle.dumps(message))
        except OSError as error:
            self._await_verdict()
            self.failure = self.failure or f"a worker cannot be reached: {error}"
            raise WorkerFailed(self.failure) from None

    def _watch(self, rank: int, process: "subprocess.Popen[bytes]", connection: Connection) -> None:
        """Waits for the end of a worker; an unasked one ends the others, and every sum that waits for them."""
        said = ""
        with contextlib.suppress(EOFError, OSError):
            said = pickle.loads(connection.recv_bytes())
        self._silent.set()
        status = process.wait()
        if self._closing:
            return
        how = f"by signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"
        self.end(f"rank {rank} of {self.size} ended{f' with {said}' if said else ''} ({how})")
        if self._in_group and dist.is_initialized() and dist.get_backend() == "nccl":
            self._leave_group()  # gloo sees for itself that the other end has gone


def lead(build: PartBuilder, size: int, device: torch.device) -> LeadingNetwork:
    """Builds a network over ``size`` processes and returns it as it is used in this one, which is rank 0.

    Args:
      build: Makes a rank's part from its place among the ranks and its device; it is pickled, so that it must be
        importable: a function of a module, or a ``functools.partial`` of one.
      size: Processes, 2 or more.
      device: ``cuda`` for one CUDA device each, from 0 on, or ``cpu``.

    Raises:
      InvalidOption: There are fewer CUDA devices, or this process belongs to a process group already.
      WorkerFailed: A worker could not build its part.
      Whatever ``build`` raises.
    """
    if device.type == "cuda" and (size > torch.cuda.device_count() or device.index not in (None, 0)):
        accepted = f"up to {torch.cuda.device_count()}, the CUDA devices that torch sees, of which the first are taken"
        raise InvalidOption("tensor_parallel", size, accepted)
    if dist.is_initialized():
        raise InvalidOption("tensor_parallel", size, "1 in a process that belongs to a torch.distributed group already")
    store = TCPStore(HOST, 0, size, is_master=True, wait_for_workers=False)
    workers = ShardWorkers(size)
    try:
        workers.start({"build": build, "size": size, "device": device.type, "port": store.port})
        await_point(store, "started", 0, size, workers.require_alive)
        shards, own = join(store, 0, size, device.type)
        workers.joined_group()
        part = build(shards, own).eval()
        await_point(store, "built", 0, size, workers.require_alive)
        await_every_rank(own)
    except BaseException as error:
        failure = workers.why(error)
        workers.end(failure or f"rank 0 failed: {error}")
        workers.close()
        if failure is None or isinstance(error, InferenceError | ModulesError) or not isinstance(error, Exception):
            raise
        raise WorkerFailed(failure) from error
    network = LeadingNetwork(part, workers)
    weakref.finalize(network, workers.close)
    return network


def join(store: Store, rank: int, size: int, kind: str) -> tuple[TensorShards, torch.device]:
    """Joins the process group as a rank; returns its place among the shards, and its device."""
    device = torch.device(kind, rank) if kind == "cuda" else torch.device(kind)
    if kind == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if kind == "cuda" else "gloo", store=store, rank=rank, world_size=size)
    assert dist.group.WORLD is not None
    return TensorShards(dist.group.WORLD), device


def await_point(store: Store, point: str, rank: int, size: int, require_alive: Callable[[], None] | None) -> None:
    """Returns once every rank has come to a point, however long one of them needs, such as to read its part.

    Args:
      store: Where the ranks find each other.
      point: Its name, new for each call.
      rank: This rank.
      size: Number of ranks.
      require_alive: Raises where another rank will never come; None in a rank that is ended by the leader then.
    """
    store.set(f"{point}/{rank}", "1")
    while not store.check([f"{point}/{other}" for other in range(size)]):
        if require_alive is not None:
            require_alive()
        time.sleep(_PAUSE)


def await_every_rank(device: torch.device) -> None:
    """Returns once every rank, this one with ``device``, has its part; makes the links over which sums go."""
    dist.barrier(device_ids=[device.index] if device.type == "cuda" else None)
