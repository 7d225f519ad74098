"""A Lightning strategy over megatron-core's process groups: data parallel, and each sequence over several ranks."""

from datetime import timedelta
from typing import Any

import lightning.pytorch as pl
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor

from subquad.parallel.errors import ParallelError
from subquad.parallel.exchange import ContextExchange, use_exchange
from subquad.parallel.sequence_order import zigzag_split
from subquad.parallel.state import ParallelState, init_parallel_state


class MegatronStrategy(DDPStrategy):
    """Trains with `context` processes per sequence and the rest of them data parallel.

    Gradients are averaged over data and context ranks together, which is the gradient of the mean of all ranks' losses.
    Networks of `subquad.modules` get the exchange of their context group before training begins; the module splits its
    batches with `split_sequence`. Every process holds all weights, so checkpoints are Lightning's own, written once.

    The groups stay up when training ends, as torch.distributed does; `destroy_parallel_state` takes both down.

    Give the trainer `use_distributed_sampler=False`, since Lightning's own sampler always shuffles in `fit`, and build
    the loader's sampler from `distributed_sampler_kwargs`, in `train_dataloader`.
    """

    def __init__(
        self,
        *,
        context: int = 1,
        process_group_backend: str | None = None,
        timeout: timedelta = timedelta(minutes=30),
        find_unused_parameters: bool = False,
    ) -> None:
        """Describes the layout; the groups are made when the trainer starts.

        Args:
          context: Processes that share each sequence; divides the number of processes.
          process_group_backend: None takes NCCL on GPUs and gloo on CPUs.
          timeout: How long a process waits for another one.
          find_unused_parameters: Whether a step may leave parameters without a gradient.
        """
        super().__init__(
            process_group_backend=process_group_backend,
            timeout=timeout,
            find_unused_parameters=find_unused_parameters,
        )
        self._context = context
        self._state: ParallelState | None = None
        self._exchange: ContextExchange | None = None

    @property
    def state(self) -> ParallelState:
        """Where this process stands.

        Raises:
          ParallelError: The trainer has not set the processes up yet.
        """
        if self._state is None:
            raise ParallelError("the process groups are made when Trainer.fit or .validate starts; ask after that")
        return self._state

    @property
    def distributed_sampler_kwargs(self) -> dict[str, Any]:
        """Number of data-parallel replicas and which one this is; ranks that share a sequence get the same samples."""
        return {"num_replicas": self.state.data_size, "rank": self.state.data_rank}

    def setup_environment(self) -> None:
        """Makes the process groups and has gradients averaged over data and context ranks."""
        super().setup_environment()
        self._state = init_parallel_state(context=self._context, backend=self.process_group_backend)
        self._exchange = self._state.exchange()
        self._ddp_kwargs["process_group"] = self._state.gradient_group

    def setup(self, trainer: pl.Trainer) -> None:
        """Gives the network its exchange, then sets training up."""
        assert self._exchange is not None
        if self._exchange.size > 1 and self.model is not None:
            use_exchange(self.model, self._exchange)
        super().setup(trainer)

    def split_sequence(self, x: Tensor, *, axis: int = 1) -> Tensor:
        """Takes this rank's share of whole sequences, in zigzag order.

        Split inputs and targets each by themselves, after shifting them against each other.

        Args:
          x: The same on all ranks of a context group; its length along `axis` is a multiple of `2 * context`.
          axis: The sequence.
        """
        return zigzag_split(x, size=self.state.context_size, rank=self.state.context_rank, axis=axis)
