"""The weight transfer engine inside vLLM's workers: buckets of bytes into the running model.

Imported by vLLM alone (see `vllm_plugin`), hence the imports of vLLM at the top.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.meta import SKIP_LOAD_TENSORS

from gainrl_ray.actors.buckets import AnnouncedBucket, TensorEntry, Way, WeightBucket, places, unpack
from gainrl_ray.actors.lent_memory import Handle, LentMemory, opened
from gainrl_ray.actors.vllm_reading import Reading
from gainrl_ray.actors.weight_group import WeightGroup
from gainrl_ray.errors import WeightSyncError

Kernels = list[tuple[Any, Any]]
"""Quantisation methods of expert layers, each with its kernel."""


@dataclass
class InitInfo(WeightTransferInitInfo):
    """A group in which buckets are broadcast; without one they come with the update calls."""

    unused_ids: Sequence[int] = ()  # that stand for no token
    address: str | None = None
    port: int = 0
    way: Way = "gloo"
    stall_s: float = 0.0
    first_rank: int = 0  # that of the engine's first worker
    size: int = 0


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One bucket; with neither pieces nor memory its bytes come by broadcast.

    Plain values but for the pieces, so that it passes to another process without pickling.
    """

    index: int
    entries: Sequence[Sequence[Any]]  # fields of TensorEntry
    pieces: Sequence[np.ndarray] | None = None  # those of the bucket, within its process
    memory: Handle | None = None  # where they lie for workers in other processes, as `places` has it
    checksum: int = 0  # of the pieces
    contents: Sequence[Sequence[Any]] | None = None  # fields of Contents that the model is to have; no bucket then


@contextmanager
def update_info(bucket: WeightBucket | AnnouncedBucket, *, in_process: bool) -> Iterator[dict[str, Any]]:
    """The keywords of UpdateInfo for a bucket, valid within the block.

    For workers in other processes, one or many, the bytes are copied once into memory that they open.
    """
    announced = {"index": bucket.index, "entries": [list(entry) for entry in bucket.entries]}
    if isinstance(bucket, AnnouncedBucket):
        yield announced
    elif in_process:
        yield announced | {"pieces": list(bucket.pieces), "checksum": bucket.checksum}
    else:
        *starts, size = places(bucket.entries)
        with LentMemory(size) as memory:
            for start, piece in zip(starts, bucket.pieces, strict=True):
                memory.write(start, piece.data)
            yield announced | {"memory": memory.handle, "checksum": bucket.checksum}


class ObjectStoreTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads buckets through vLLM's layerwise reload, on CPU and GPU, whichever way their bytes come."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    _group: WeightGroup | None = None
    _loaded: set[str] | None = None  # names of vLLM's own parameters; None = the model does not report them
    _reading: Reading | None = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._awaited: set[str] = set()  # names of parameters that a whole update loads
        self._kernels: Kernels = []

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Rule the unused ids out, or join the group that `init_info` names, in the place of an older one.

        Raises WeightSyncError.
        """
        self.shutdown()
        if init_info.unused_ids:
            rule_out(self.model, torch.tensor(init_info.unused_ids, device=self.device))
        if init_info.address is not None:
            self._group = WeightGroup(
                init_info.address,
                init_info.port,
                rank=init_info.first_rank + self.parallel_config.rank,
                size=init_info.size,
                device=torch.device("cpu") if init_info.way == "gloo" else self.device,
                way=init_info.way,
                stall_s=init_info.stall_s,
            )

    def start_weight_update(self) -> None:
        """Put the layers on the meta device; the checkpoint's tensors arrive next."""
        self._loaded = set()
        if self.device.type == "cpu":
            self._kernels = unset_expert_kernels(self.model)
        initialize_layerwise_reload(self.model)
        names = dict(self.model.named_parameters())  # without those that vLLM derives from loaded ones
        self._awaited = {name for name in names if name.rsplit(".", 1)[-1] not in SKIP_LOAD_TENSORS}

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket. The base class's version synchronises an accelerator, which a CPU build of torch lacks."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Hand the bucket's tensors to the model's loader, or learn what will have to be there."""
        if update_info.contents is not None:
            self._reading = Reading(self.model, update_info.contents)
            return
        model: Any = self.model
        loaded: set[str] | None = model.load_weights(self._tensors(update_info))
        self._loaded = None if loaded is None or self._loaded is None else self._loaded | loaded

    def _tensors(self, info: UpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
        """The bucket's tensors: from a broadcast, or from its pieces after a look at their checksum."""
        entries = tuple(_entry(fields) for fields in info.entries)
        if info.memory is not None:
            pieces = _lent_pieces(info.memory, entries)
        elif info.pieces is not None:
            pieces = tuple(info.pieces)
        else:
            return self._broadcast(AnnouncedBucket(index=info.index, entries=entries))
        bucket = WeightBucket(index=info.index, entries=entries, pieces=pieces, checksum=info.checksum)
        bucket.check()
        return unpack(bucket)

    def _broadcast(self, bucket: AnnouncedBucket) -> Iterator[tuple[str, torch.Tensor]]:
        if self._group is None:
            raise WeightSyncError(f"bucket {bucket.index} was announced as a broadcast to an engine without a group")
        # A buffer of its own: vLLM keeps views of it until all of a layer's weights are there.
        buffer = bucket.buffer(self._group.device)
        self._group.broadcast(buffer)
        return bucket.tensors(buffer)

    def finish_weight_update(self) -> None:
        """Put the loaded layers to work.

        Raises:
            WeightSyncError: parameters of the model were not among the buckets, or experts not renewed; vLLM would keep
                their old values. Or the numbers that it holds are not those that were announced.
        """
        reading, self._reading = self._reading, None
        try:
            finalize_layerwise_reload(self.model, self.model_config)
        finally:
            if reading is not None:
                reading.stop()
        retie_head(self.model, tied=bool(self.model_config.hf_text_config.tie_word_embeddings))
        known = self._awaited & set(dict(self.model.named_parameters()))  # a tied head has no name of its own
        missing = known - self._loaded if self._loaded is not None else set()
        self._loaded = None
        idle, self._kernels = restore_expert_kernels(self._kernels), []
        if self._group is not None and self._group.device.type == "cuda":
            torch.cuda.empty_cache()  # of the buckets; a KV cache that wakes up next wants the memory
        if missing:
            raise WeightSyncError(
                f"{len(missing)} parameters of the engine's model were not sent: {sorted(missing)[:3]}; "
                "the learner's model has other parameter names"
            )
        if idle:
            raise WeightSyncError(
                f"vLLM has no way to renew the experts of a {type(self.model).__name__} ({idle} layers did not take "
                "their weights): use another model"
            )
        if reading is not None:
            reading.check(sharded=self.parallel_config.world_size > 1)

    def shutdown(self) -> None:
        """Leave the group."""
        if self._group is not None:
            self._group.close()
            self._group = None


def rule_out(model: Any, token_ids: torch.Tensor) -> None:
    """Nothing; makes these tokens impossible, in what is sampled and in log-probabilities of prompts alike."""
    compute = model.compute_logits

    def compute_logits(*arguments: Any, **options: Any) -> torch.Tensor | None:
        logits = compute(*arguments, **options)  # None on ranks that do not sample
        return None if logits is None else logits.index_fill_(-1, token_ids, float("-inf"))

    model.compute_logits = compute_logits


def unset_expert_kernels(model: torch.nn.Module) -> Kernels:
    """What was unset: makes layers of experts pack the weights that come next for their kernel.

    On CPU vLLM packs them when it sets a layer's kernel up and takes those of an update for packed ones (see
    `_setup_kernel` in `unquantized_fused_moe_method.py`). Elsewhere they are packed at each update, and captured
    graphs need the kernels that there are.
    """
    methods: list[Any] = [getattr(module, "quant_method", None) for module in model.modules()]
    kernels = [(method, method.moe_kernel) for method in methods if getattr(method, "moe_kernel", None) is not None]
    for method, _ in kernels:
        method.moe_kernel = None
    return kernels


def restore_expert_kernels(kernels: Kernels) -> int:
    """How many of the kernels were not set up anew, and are those of the old weights again."""
    idle = [(method, kernel) for method, kernel in kernels if method.moe_kernel is None]
    for method, kernel in idle:
        method.moe_kernel = kernel
    return len(idle)


def retie_head(model: torch.nn.Module, *, tied: bool) -> None:
    """Nothing; gives a tied output head the embedding's new weight.

    On CPU the head keeps a prepacked copy of the weight it was built with, and the layerwise reload does not renew
    it for a tied head, since no tensor of that name is loaded: without this, logits come from the old weight.
    """
    if not tied:
        return
    heads = [module for module in model.modules() if isinstance(module, ParallelLMHead)]
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    if len(heads) == 1 and len(embeddings) == 1:
        heads[0].weight = embeddings[0].weight
        heads[0].quant_method.process_weights_after_loading(heads[0])


def _lent_pieces(memory: Handle, entries: Sequence[TensorEntry]) -> tuple[np.ndarray, ...]:
    """Per entry a [bytes] uint8 view of lent memory, which lasts as long as they. Raises WeightSyncError."""
    *starts, size = places(entries)
    try:
        buffer = np.frombuffer(opened(memory, size), dtype=np.uint8)
    except (OSError, RuntimeError, ValueError) as error:
        raise WeightSyncError(f"process {os.getpid()} cannot open the memory of its engine's actor: {error}") from error
    return tuple(buffer[start : start + entry.size] for start, entry in zip(starts, entries, strict=True))


def _entry(fields: Sequence[Any]) -> TensorEntry:
    name, dtype, shape = fields
    return TensorEntry(name, dtype, tuple(shape))
