"""The weight transfer engine inside vLLM's workers: buckets of bytes into the running model.

Imported by vLLM alone (see `vllm_plugin`), hence the imports of vLLM at the top.
"""

from collections.abc import Sequence
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

from gainrl_ray.actors.buckets import TensorEntry, WeightBucket, unpack
from gainrl_ray.errors import WeightSyncError


@dataclass
class InitInfo(WeightTransferInitInfo):
    """Nothing is needed to begin: buckets come with the update calls."""


@dataclass
class UpdateInfo(WeightTransferUpdateInfo):
    """One bucket; plain values, so that it passes to another process without pickling."""

    index: int
    entries: Sequence[Sequence[Any]]  # fields of TensorEntry
    pieces: Sequence[Any]  # per entry, a [bytes] uint8 array in process, bytes from another process
    checksum: int


def update_info(bucket: WeightBucket, *, in_process: bool) -> dict[str, Any]:
    """The keywords of UpdateInfo for a bucket; the bytes are copied only when they must leave the process."""
    return {
        "index": bucket.index,
        "entries": [list(entry) for entry in bucket.entries],
        "pieces": list(bucket.pieces) if in_process else [piece.tobytes() for piece in bucket.pieces],
        "checksum": bucket.checksum,
    }


class ObjectStoreTransferEngine(WeightTransferEngine[InitInfo, UpdateInfo]):
    """Loads buckets through vLLM's layerwise reload, on CPU and GPU."""

    init_info_cls = InitInfo
    update_info_cls = UpdateInfo

    _loaded: set[str] | None = None  # names of vLLM's own parameters; None = the model does not report them

    def init_transfer_engine(self, init_info: InitInfo) -> None:
        """Nothing to set up."""

    def start_weight_update(self) -> None:
        """Put the layers on the meta device; the checkpoint's tensors arrive next."""
        self._loaded = set()
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load one bucket. The base class's version synchronises an accelerator, which a CPU build of torch lacks."""
        self.receive_weights(self.parse_update_info(update_info))
        if self.device.type != "cpu":
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: UpdateInfo) -> None:
        """Hand the bucket's tensors to the model's loader, after a look at its checksum."""
        bucket = WeightBucket(
            index=update_info.index,
            entries=tuple(_entry(fields) for fields in update_info.entries),
            pieces=tuple(np.frombuffer(piece, dtype=np.uint8) for piece in update_info.pieces),
            checksum=update_info.checksum,
        )
        bucket.check()
        model: Any = self.model
        loaded: set[str] | None = model.load_weights(unpack(bucket))
        self._loaded = None if loaded is None or self._loaded is None else self._loaded | loaded

    def finish_weight_update(self) -> None:
        """Put the loaded layers to work.

        Raises:
            WeightSyncError: parameters of the model were not among the buckets; vLLM would keep their old values.
        """
        finalize_layerwise_reload(self.model, self.model_config)
        retie_head(self.model, tied=bool(self.model_config.hf_text_config.tie_word_embeddings))
        missing = set(dict(self.model.named_parameters())) - self._loaded if self._loaded is not None else set()
        self._loaded = None
        if missing:
            raise WeightSyncError(
                f"{len(missing)} parameters of the engine's model were not sent: {sorted(missing)[:3]}; "
                "the learner's model has other parameter names"
            )

    def shutdown(self) -> None:
        """Nothing to release."""


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
