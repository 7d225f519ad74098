"""The engine: a network and its tokenizer, with the calls that people make."""

import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from os import PathLike
from typing import Any, Literal, overload

import torch
from jaxtyping import Float, Int
from torch import Tensor

from subquad.inference.checks import check_generate_job, check_ids, check_score_job, check_size
from subquad.inference.checks import require_subquadratic_ops as require_fused_operators
from subquad.inference.collected_generation import CollectedGeneration
from subquad.inference.continuous_batch import ContinuousBatch, reserved_tokens
from subquad.inference.embedding import POOLINGS, Pooling, embed_rows, resolve_layer
from subquad.inference.errors import InvalidOption, InvalidSequence, NonFiniteLogits, RequestTooLarge
from subquad.inference.jobs import Failed, Finished, GenerateJob, ScoreJob, Started, Strand, Tokens
from subquad.inference.memory import require_memory
from subquad.inference.network import Network, require_alive, weight_addresses, wide_logits
from subquad.inference.options import Generation, GenerationOptions, StreamEvent
from subquad.inference.scoring import Score, average_strands, score_rows, strand_inputs
from subquad.inference.state_pool import pages_for
from subquad.inference.ticket import Ticket
from subquad.inference.tokenizer import Tokenizer

DEFAULT_MAX_SEQUENCE_TOKENS = 1 << 20
PREFILL_CHUNK, PREFILL_CHUNKS = 2048, {"cuda": 8192}
PREFILL_ROWS = {"cuda": 8}
Reduce = Literal["sum", "mean", "none"]
Sequences = Sequence[str] | Sequence[Sequence[int]]


class Engine:
    """Generates from, scores with and runs one network.

    Args:
      model: The network, on its device and in its dtype; it is put into evaluation mode.
      tokenizer: Turns texts into ids.
      metadata: What the checkpoint says of itself; ``max_sequence_tokens`` and ``weights_sha256`` are read from it.
      max_running: Rows of the decode batch. Every decode step has this many, used or not: results then do not depend on
        how many prompts run together. Fewer rows suit a single prompt, more a long list. States are kept from call to
        call; see `free_states`.
      prefill_chunk: Tokens read at once; default: 8192 on a GPU, 2048 elsewhere. Chunks lie on an absolute grid, so
        that results do not depend on the load; peak memory grows with the chunk, not with the prompt.
      prefill_rows: Prompts of up to 256 tokens that are read side by side, in a shape that does not depend on the
        load; 1 reads each by itself. Default: 8 on a GPU, in one captured graph, and 1 elsewhere.
      max_sequence_tokens: Prompt and new tokens of a sequence at most; default: the metadata's, else 1,048,576.
      use_subquadratic_ops: Fused operators in scoring, embedding and prefill: True demands them, False runs their parts
        one by one, None leaves the choice to the network. Decode steps are the same for all three.

    Raises:
      InvalidOption: ``max_running``, ``prefill_chunk``, ``prefill_rows`` or ``max_sequence_tokens`` is too small, or
        the network has no choice of operators.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        tokenizer: Tokenizer,
        *,
        metadata: Mapping[str, Any] | None = None,
        max_running: int = 8,
        prefill_chunk: int | None = None,
        prefill_rows: int | None = None,
        max_sequence_tokens: int | None = None,
        use_subquadratic_ops: bool | None = None,
    ) -> None:
        if use_subquadratic_ops is not None:
            if not hasattr(model, "use_subquadratic_ops"):
                accepted = f"None, since a {type(model).__name__} has no such choice"
                raise InvalidOption("use_subquadratic_ops", use_subquadratic_ops, accepted)
            model.use_subquadratic_ops = use_subquadratic_ops  # type: ignore[assignment]
            if use_subquadratic_ops:
                require_fused_operators(model)
        self.model = model.eval()
        if prefill_chunk is None:
            prefill_chunk = PREFILL_CHUNKS.get(self.device.type, PREFILL_CHUNK)
        if prefill_rows is None:
            prefill_rows = PREFILL_ROWS.get(self.device.type, 1)
        sizes = (("max_running", max_running), ("prefill_chunk", prefill_chunk), ("prefill_rows", prefill_rows))
        for name, value in sizes:
            check_size(name, value, 1)
        self.tokenizer = tokenizer
        self.metadata: dict[str, Any] = dict(metadata or {})
        self.max_running = max_running
        self.prefill_chunk, self.prefill_rows = prefill_chunk, prefill_rows
        if max_sequence_tokens is None:
            max_sequence_tokens = self.metadata.get("max_sequence_tokens") or DEFAULT_MAX_SEQUENCE_TOKENS
        assert max_sequence_tokens is not None
        check_size("max_sequence_tokens", max_sequence_tokens, 2)
        self.max_sequence_tokens = max_sequence_tokens
        self._idle_batch: ContinuousBatch | None = None
        self._exchange = threading.Lock()
        self._eager_reason: str | None = "no step has run yet"

    @classmethod
    def from_checkpoint(
        cls,
        path: str | PathLike[str],
        *,
        device: str | torch.device = "auto",
        dtype: str | torch.dtype = "auto",
        fp8_projections: str = "auto",
        weights: str = "stored",
        max_running: int = 8,
        prefill_chunk: int | None = None,
        prefill_rows: int | None = None,
        use_subquadratic_ops: bool | None = None,
        tensor_parallel: int = 1,
    ) -> "Engine":
        """Loads a native checkpoint directory; see `load_checkpoint` and the class for the arguments and the errors.

        ``tensor_parallel`` processes share every layer, each on a device of its own, for networks that do not fit on
        one; this process is one of them and starts the others. See `load_shared_checkpoint`.
        """
        if tensor_parallel == 1:
            from subquad.inference.checkpoint import load_checkpoint

            loaded = load_checkpoint(path, device=device, dtype=dtype, fp8_projections=fp8_projections, weights=weights)
        else:
            from subquad.inference.tensor_parallel import load_shared_checkpoint

            loaded = load_shared_checkpoint(
                path,
                ranks=tensor_parallel,
                device=device,
                dtype=dtype,
                fp8_projections=fp8_projections,
                weights=weights,
            )
        return cls(
            loaded.model,
            loaded.tokenizer,
            metadata=loaded.metadata,
            max_running=max_running,
            prefill_chunk=prefill_chunk,
            prefill_rows=prefill_rows,
            use_subquadratic_ops=use_subquadratic_ops,
        )

    @property
    def use_subquadratic_ops(self) -> bool | None:
        """What was asked of the fused operators: None (dispatch chooses), True or False."""
        return getattr(self.model, "use_subquadratic_ops", None)

    @property
    def tensor_parallel(self) -> int:
        """Processes that share the network."""
        return getattr(self.model, "ranks", 1)

    @property
    def network(self) -> Network:
        """The model, seen as what the engine needs of it."""
        assert isinstance(self.model, Network)
        return self.model

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the embedding, and so of the activations."""
        return next(self.model.parameters()).dtype

    @property
    def layer_names(self) -> tuple[str, ...]:
        """``("blocks.0", "blocks.1", …)``."""
        return tuple(f"blocks.{i}" for i, _ in enumerate(self.model.get_submodule("blocks").children()))

    @property
    def weights_sha256(self) -> str | None:
        """The digest of the weights file (of the index where there are several); None for a network made in memory."""
        return self.metadata.get("weights_sha256")

    @torch.inference_mode()
    def forward(self, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch length vocabulary"]:
        """Returns float32 logits of every position.

        Args:
          ids: Integer tokens; 1 to ``max_sequence_tokens`` a row.

        Raises:
          InvalidSequence: The shape is not ``[batch, length]``, a row is empty or an id lies outside the vocabulary.
          RequestTooLarge: A row is longer than the network takes.
          NonFiniteLogits: The network produced NaN or infinity.
        """
        if ids.ndim != 2 or not ids.numel() or ids.is_floating_point():
            problem = f"has the shape {list(ids.shape)} and type {ids.dtype}"
            raise InvalidSequence("ids", f"{problem}; accepted: integers [batch, length], neither of them 0")
        if ids.shape[1] > self.max_sequence_tokens:
            raise RequestTooLarge("ids", ids.shape[1], self.max_sequence_tokens, "tokens")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.tokenizer.vocab_size:
            bad = low if low < 0 else high
            raise InvalidSequence("ids", f"holds {bad}; accepted: 0 to {self.tokenizer.vocab_size - 1}")
        logits = wide_logits(self.network, self.network.encode(ids.to(self.device, torch.int64))).float()
        finite = bool(torch.isfinite(logits).all())
        require_alive(self.model)
        if not finite:
            raise NonFiniteLogits("forward")
        return logits

    def generate(self, prompts: Sequences, options: GenerationOptions | None = None) -> list[Generation]:
        """Extends each prompt; prompts of any lengths run together and give what each gives alone.

        Args:
          prompts: Texts, or lists of ids.
          options: How to extend them; default: 100 tokens, greedy.

        Returns:
          One result a prompt, in order.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts.
          NonFiniteLogits: The network produced NaN or infinity for one of the prompts.
        """
        return list(self.generate_each(prompts, options))

    def generate_each(
        self,
        prompts: Sequences,
        options: GenerationOptions | None = None,
        *,
        names: Sequence[str] | None = None,
        ignore_end_of_document: bool = False,
    ) -> Iterator[Generation]:
        """Like `generate`, but yields each result as soon as it and all before it are complete.

        Args:
          prompts: Texts, or lists of ids.
          options: How to extend them.
          names: What errors call the prompts; default ``prompts[0]``, ``prompts[1]``, …
          ignore_end_of_document: Go on after the end-of-document token and return it like any other.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts.
          NonFiniteLogits: Where the result of that prompt would come.
        """
        options = options or GenerationOptions()
        encoded = self._encode_all(prompts, "prompts", names)
        jobs = [GenerateJob(ids, options, ignore_end_of_document=ignore_end_of_document) for ids in encoded]
        for index, job in enumerate(jobs):
            self._check(job, _name("prompts", names, index))
        return self._run(jobs) if jobs else iter(())

    def stream(self, prompt: str | Sequence[int], options: GenerationOptions | None = None) -> Iterator[StreamEvent]:
        """Yields tokens as they are made; the last event has a ``finish_reason``. The same tokens as `generate`.

        On a GPU the step behind a token is under way while the reader has the token. A reader that closes the iterator
        ends the generation and leaves the engine ready for the next.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts.
          NonFiniteLogits: The network produced NaN or infinity.
        """
        job = GenerateJob(self._encode(prompt, "prompt"), options or GenerationOptions())
        self._check(job, "prompt")
        return self._stream(job)

    def _stream(self, job: GenerateJob) -> Iterator[StreamEvent]:
        batch, ticket = self._take_batch([job]), Ticket(1)
        try:
            batch.submit(ticket, job)
            seed, count, prefills = 0, 0, batch.counters.prefills
            while not ticket.done:
                # The first token is handed over, unless it may begin a stop text, before a second is computed.
                batch.step(decode=batch.counters.prefills > prefills)
                for event in ticket.take():
                    match event:
                        case Started():
                            seed = event.seed
                        case Tokens():
                            count = event.first_index + len(event.ids)
                            text = self.tokenizer.decode(event.ids)
                            yield StreamEvent(
                                first_index=event.first_index,
                                text=text,
                                ids=event.ids,
                                logprobs=event.logprobs,
                                seed=seed,
                            )
                        case Finished():
                            logprobs = [] if job.options.return_logprobs else None
                            yield StreamEvent(
                                first_index=count,
                                text="",
                                ids=[],
                                logprobs=logprobs,
                                seed=seed,
                                finish_reason=event.reason,
                                stop_sequence=event.stop_sequence,
                            )
                        case Failed():
                            raise event.error
                        case _:
                            pass
        except GeneratorExit:  # the reader has gone; the step under way is dropped and the batch is free again
            ticket.cancel()
            batch.step(decode=False)
            raise
        finally:
            self._keep_batch(batch)

    @overload
    def score(
        self,
        sequences: Sequences,
        *,
        reduce: Literal["sum", "mean"] = "sum",
        prepend_eod: bool = False,
        strand: Strand = "forward",
        batch_size: int = 1,
    ) -> list[float]: ...
    @overload
    def score(
        self,
        sequences: Sequences,
        *,
        reduce: Literal["none"],
        prepend_eod: bool = False,
        strand: Strand = "forward",
        batch_size: int = 1,
    ) -> list[list[float]]: ...
    def score(
        self,
        sequences: Sequences,
        *,
        reduce: Reduce = "sum",
        prepend_eod: bool = False,
        strand: Strand = "forward",
        batch_size: int = 1,
    ) -> list[float] | list[list[float]]:
        """Returns the log-likelihood of each sequence in nats: ``sum(log p(ids[t] | ids[:t]) for t >= 1)``.

        Args:
          sequences: Texts, or lists of ids, of any lengths.
          reduce: ``"sum"``; ``"mean"``, over the scored tokens; or ``"none"``, one value for each scored token.
          prepend_eod: Start from the end-of-document token, so that the first token is scored too.
          strand: ``"both"`` averages with the reverse complement.
          batch_size: Sequences read side by side, at most as many as make a chunk of ``prefill_chunk`` tokens. 1 makes
            each score bitwise independent of the others; more is faster for short sequences and moves a score by
            rounding only.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts.
          NonFiniteLogits: The network produced NaN or infinity.
        """
        if reduce not in ("sum", "mean", "none"):
            raise InvalidOption("reduce", reduce, "'sum', 'mean' or 'none'")
        scores = self.score_details(
            sequences, prepend_eod=prepend_eod, strand=strand, keep_logprobs=reduce == "none", batch_size=batch_size
        )
        if reduce == "none":
            return [score.logprobs or [] for score in scores]
        return [score.log_likelihood if reduce == "sum" else score.mean for score in scores]

    def score_details(
        self,
        sequences: Sequences,
        *,
        prepend_eod: bool = False,
        strand: Strand = "forward",
        keep_logprobs: bool = False,
        batch_size: int = 1,
        names: Sequence[str] | None = None,
    ) -> list[Score]:
        """Like `score`, with sum, count and (where kept) the value of each token; ``names`` are for errors.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts.
          NonFiniteLogits: The network produced NaN or infinity.
        """
        each = self.score_each(
            sequences,
            prepend_eod=prepend_eod,
            strand=strand,
            keep_logprobs=keep_logprobs,
            batch_size=batch_size,
            names=names,
        )
        return list(each)

    def score_each(
        self,
        sequences: Sequences,
        *,
        prepend_eod: bool = False,
        strand: Strand = "forward",
        keep_logprobs: bool = False,
        batch_size: int = 1,
        names: Sequence[str] | None = None,
    ) -> Iterator[Score]:
        """Like `score_details`, but yields each result as soon as it and all before it are complete.

        With ``batch_size`` 1 that is as soon as the next sequence was launched.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts.
          NonFiniteLogits: Where the result of that sequence would come.
        """
        check_size("batch_size", batch_size, 1)
        ids = self._encode_all(sequences, "sequences", names)
        if not ids:
            return iter(())
        job = ScoreJob(ids, prepend_eod=prepend_eod, strand=strand, return_logprobs=keep_logprobs)
        check_score_job(
            job,
            vocab_size=self.tokenizer.vocab_size,
            max_sequence_tokens=self.max_sequence_tokens,
            names=names,
            ids_checked=True,
        )
        prepend = self.tokenizer.eod_id if prepend_eod else None
        inputs = [
            strand_inputs(s, prepend=prepend, strand=strand, field=_name("sequences", names, i))
            for i, s in enumerate(ids)
        ]
        found = score_rows(
            self.network,
            [row for strands in inputs for row in strands],
            chunk=self.prefill_chunk,
            batch_size=batch_size,
            device=self.device,
            keep_logprobs=keep_logprobs,
            pad_id=self.tokenizer.pad_id,
        )
        return map(average_strands, zip(*[found] * len(inputs[0]), strict=True))  # so many in a row are one sequence's

    def embed(
        self,
        sequences: Sequences,
        layers: Sequence[str],
        *,
        pooling: Pooling = "mean",
        prepend_eod: bool = False,
        batch_size: int = 1,
        names: Sequence[str] | None = None,
    ) -> list[dict[str, Tensor]]:
        """Returns the activations of layers for each sequence, before any final norm.

        Args:
          sequences: Texts, or lists of ids, of any lengths.
          layers: ``"blocks.N"``, or a module inside a block such as ``"blocks.28.mlp.l3"``; N may be negative. Blocks
            after the last one that is asked for are not run.
          pooling: ``"mean"``, ``"max"`` or ``"last"`` over the tokens, or ``"none"`` for one vector a token.
          prepend_eod: Read the end-of-document token first; it has no vector of its own in the result.
          batch_size: Sequences read side by side; see `score`.
          names: What errors call the sequences.

        Returns:
          For each sequence, float32 on the CPU under each name of ``layers``: ``[channel]``, or ``[length, channel]``.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: Before any work starts; or, for a layer that is not run as a
            module of its own, at the first sequence.
          NonFiniteActivations: The network produced NaN or infinity.
        """
        each = self.embed_each(
            sequences, layers, pooling=pooling, prepend_eod=prepend_eod, batch_size=batch_size, names=names
        )
        return list(each)

    def embed_each(
        self,
        sequences: Sequences,
        layers: Sequence[str],
        *,
        pooling: Pooling = "mean",
        prepend_eod: bool = False,
        batch_size: int = 1,
        names: Sequence[str] | None = None,
    ) -> Iterator[dict[str, Tensor]]:
        """Like `embed`, but yields the activations of each sequence as soon as they and all before them are complete.

        Raises:
          InvalidSequence, RequestTooLarge, InvalidOption: As for `embed`.
          NonFiniteActivations: Where the result of that sequence would come.
        """
        if pooling not in POOLINGS:
            raise InvalidOption("pooling", pooling, ", ".join(map(repr, POOLINGS)))
        check_size("batch_size", batch_size, 1)
        if isinstance(layers, str) or not layers:
            raise InvalidOption("layers", layers, "a list of one or more layer names")
        full = {layer: resolve_layer(layer, self.model) for layer in layers}
        ids = self._encode_all(sequences, "sequences", names)
        for index, row in enumerate(ids):
            name = _name("sequences", names, index)
            if not row:
                raise InvalidSequence(name, "is empty; accepted: at least one token")
            if len(row) + prepend_eod > self.max_sequence_tokens:
                raise RequestTooLarge(name, len(row), self.max_sequence_tokens - prepend_eod, "tokens")
        prefix = [self.tokenizer.eod_id] if prepend_eod else []
        values = embed_rows(
            self.network,
            [prefix + row for row in ids],
            sorted(set(full.values())),
            pooling=pooling,
            first=len(prefix),
            chunk=self.prefill_chunk,
            batch_size=batch_size,
            device=self.device,
            pad_id=self.tokenizer.pad_id,
        )
        return ({layer: found[full[layer]] for layer in layers} for found in values)

    def _run(self, jobs: Sequence[GenerateJob]) -> Iterator[Generation]:
        """Runs all jobs and yields results in order."""
        batch = self._take_batch(jobs)
        try:
            waiting: deque[CollectedGeneration] = deque()
            for job in jobs:
                result = CollectedGeneration(Ticket(1, buffer_capacity=job.options.max_new_tokens + 1), job.options)
                batch.submit(result.ticket, job)
                waiting.append(result)
            while waiting:
                while not waiting[0].ticket.done:
                    batch.step()
                yield waiting.popleft().generation(self.tokenizer)
        finally:
            self._keep_batch(batch)

    def explain(self) -> str:
        """Says how decode steps run: as one captured CUDA graph, or eagerly and why. Known once one has run."""
        if self._eager_reason is None:
            return "decode steps run as one captured CUDA graph"
        return f"decode steps run eagerly: {self._eager_reason}"

    def close(self) -> None:
        """Gives states back and ends the other processes of a network that several share; nothing runs afterwards."""
        self.free_states()
        if self.tensor_parallel > 1:
            self.model.close()  # type: ignore[operator]

    def free_states(self) -> None:
        """Gives back the memory of states, keys and values, and the captured steps, which calls keep for the next."""
        self._idle_batch = None

    def _take_batch(self, jobs: Sequence[GenerateJob]) -> ContinuousBatch:
        """Returns a batch with pages for the longest of the jobs that can run at once: the kept one where it fits."""
        needed = sorted((reserved_tokens(job, self.max_sequence_tokens) for job in jobs), reverse=True)
        pages = sum(pages_for(tokens) for tokens in needed[: self.max_running])
        sizes = (self.max_running, self.max_sequence_tokens, self.prefill_chunk, self.prefill_rows)
        made_for = (*sizes, weight_addresses(self.model))
        with self._exchange:
            kept, self._idle_batch = self._idle_batch, None
        if kept is not None and kept.pool.page_count >= pages and kept.made_for == made_for:
            return kept
        del kept  # before the new one takes memory
        room = {"rows": self.max_running, "page_count": pages}
        require_memory(self.network, self.device, length=needed[0], field="the longest prompt", **room)
        return ContinuousBatch(
            self.network,
            self.tokenizer,
            slots=self.max_running,
            max_sequence_tokens=self.max_sequence_tokens,
            prefill_chunk=self.prefill_chunk,
            prefill_rows=self.prefill_rows,
            page_count=pages,
            made_for=made_for,
        )

    def _keep_batch(self, batch: ContinuousBatch) -> None:
        """Keeps a batch, with its captured steps, unless requests were left in it."""
        self._eager_reason = batch.eager_reason
        if batch.idle:
            self._idle_batch = batch

    def _check(self, job: GenerateJob, field: str) -> None:
        check_generate_job(
            job,
            vocab_size=self.tokenizer.vocab_size,
            max_sequence_tokens=self.max_sequence_tokens,
            slots=self.max_running,
            field=field,
            ids_checked=True,
        )

    def _encode(self, sequence: str | Sequence[int], field: str) -> list[int]:
        if isinstance(sequence, str):
            return self.tokenizer.encode(sequence, field=field)
        if not isinstance(sequence, Iterable):
            raise InvalidSequence(field, f"is a {type(sequence).__name__}; accepted: a text or a list of ids")
        ids = list(sequence)
        check_ids(ids, self.tokenizer.vocab_size, field=field)
        return ids

    def _encode_all(self, sequences: Sequences, field: str, names: Sequence[str] | None) -> list[list[int]]:
        if isinstance(sequences, str | bytes):
            raise InvalidOption(field, sequences[:32], "a list of texts or of lists of ids, not one text")
        return [self._encode(sequence, _name(field, names, i)) for i, sequence in enumerate(sequences)]


def _name(field: str, names: Sequence[str] | None, index: int) -> str:
    return f"{field}[{index}]" if names is None else names[index]
