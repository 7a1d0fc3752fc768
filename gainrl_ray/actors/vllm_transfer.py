"""The weight transfer engine inside vLLM's workers: buckets of bytes into the running model.

Imported by vLLM alone (see `vllm_plugin`), hence the imports of vLLM at the top.
"""

from collections.abc import Iterator, Sequence
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

from gainrl_ray.actors.buckets import AnnouncedBucket, TensorEntry, Way, WeightBucket, unpack
from gainrl_ray.actors.weight_group import WeightGroup
from gainrl_ray.errors import WeightSyncError


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
    """One bucket; plain values, so that it passes to another process without pickling."""

    index: int
    entries: Sequence[Sequence[Any]]  # fields of TensorEntry
    pieces: Sequence[Any] | None = None  # per entry, a [bytes] uint8 array in process, bytes from another process
    checksum: int = 0  # of the pieces; without pieces the bytes come by broadcast


def update_info(bucket: WeightBucket | AnnouncedBucket, *, in_process: bool) -> dict[str, Any]:
    """The keywords of UpdateInfo for a bucket; the bytes are copied only when they must leave the process."""
    announced = {"index": bucket.index, "entries": [list(entry) for entry in bucket.entries]}
    if isinstance(bucket, AnnouncedBucket):
        return announced
    return announced | {
        "pieces": list(bucket.pieces) if in_process else [piece.tobytes() for piece in bucket.pieces],
        "checksum": bucket.checksum,
    }


class ObjectStoreTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads buckets through vLLM's layerwise reload, on CPU and GPU, whichever way their bytes come."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    _group: WeightGroup | None = None
    _loaded: set[str] | None = None  # names of vLLM's own parameters; None = the model does not report them

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
            unset_expert_kernels(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket. The base class's version synchronises an accelerator, which a CPU build of torch lacks."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Hand the bucket's tensors to the model's loader."""
        model: Any = self.model
        loaded: set[str] | None = model.load_weights(self._tensors(update_info))
        self._loaded = None if loaded is None or self._loaded is None else self._loaded | loaded

    def _tensors(self, info: UpdateInfo) -> Iterator[tuple[str, torch.Tensor]]:
        """The bucket's tensors: from a broadcast, or from its pieces after a look at their checksum."""
        entries = tuple(_entry(fields) for fields in info.entries)
        if info.pieces is None:
            return self._broadcast(AnnouncedBucket(index=info.index, entries=entries))
        pieces = tuple(np.frombuffer(piece, dtype=np.uint8) for piece in info.pieces)
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
            WeightSyncError: parameters of the model were not among the buckets; vLLM would keep their old values.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        retie_head(self.model, tied=bool(self.model_config.hf_text_config.tie_word_embeddings))
        missing = set(dict(self.model.named_parameters())) - self._loaded if self._loaded is not None else set()
        self._loaded = None
        if self._group is not None and self._group.device.type == "cuda":
            torch.cuda.empty_cache()  # of the buckets; a KV cache that wakes up next wants the memory
        if missing:
            raise WeightSyncError(
                f"{len(missing)} parameters of the engine's model were not sent: {sorted(missing)[:3]}; "
                "the learner's model has other parameter names"
            )

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


def unset_expert_kernels(model: torch.nn.Module) -> None:
    """Nothing; makes layers of experts pack the weights that come next for their kernel.

    On CPU vLLM packs them when it sets a layer's kernel up and takes those of an update for packed ones (see
    `_setup_kernel` in `unquantized_fused_moe_method.py`). Elsewhere they are packed at each update, and captured
    graphs need the kernels that there are.
    """
    for module in model.modules():
        method = getattr(module, "quant_method", None)
        if getattr(method, "moe_kernel", None) is not None:
            method.moe_kernel = None


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


def _entry(fields: Sequence[Any]) -> TensorEntry:
    name, dtype, shape = fields
    return TensorEntry(name, dtype, tuple(shape))
