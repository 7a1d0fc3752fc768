"""What vLLM has loaded into its model, read back: the numbers are those that were sent, whatever their arrangement.

Imported by vLLM's processes alone, as `vllm_transfer` is.
"""

import logging
from collections.abc import Sequence
from typing import Any

import torch
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

from gainrl_ray.actors.contents import Contents, contents, merged
from gainrl_ray.errors import WeightSyncError

logger = logging.getLogger("vllm.gainrl_ray")


class Reading:
    """The parameters of each layer as they are when its loading ends, before kernels pack them into forms of their own.

    To be made after a weight update has started, before its first bucket.
    """

    def __init__(self, model: torch.nn.Module, expected: Sequence[Sequence[Any]]) -> None:
        """`expected`: the fields of the Contents that the model is to have."""
        self._model = model
        self._expected = tuple(Contents(*fields) for fields in expected)
        self._loaded: dict[torch.nn.Module, dict[str, tuple[Contents, ...]]] = {}
        methods = (getattr(layer, "quant_method", None) for layer in model.modules())
        self._methods = {id(method): method for method in methods if isinstance(method, QuantizeMethodBase)}
        for method in self._methods.values():
            self._watch(method)

    def _watch(self, method: Any) -> None:
        process = method.process_weights_after_loading

        def read_and_process(layer: torch.nn.Module) -> None:
            self._loaded[layer] = {name: contents([own]) for name, own in _own_parameters(layer).items()}
            process(layer)

        method.process_weights_after_loading = read_and_process

    def stop(self) -> None:
        """Let vLLM process layers unwatched again: all are loaded."""
        for method in self._methods.values():
            del method.process_weights_after_loading

    def check(self, *, sharded: bool) -> None:
        """Nothing; raises WeightSyncError when the model holds as many numbers as were announced, but others.

        Where it holds another number of them, because it keeps some twice, pads or converts them, or because a worker
        has a part of the model, nothing can be said.
        """
        found = () if sharded else self._found()
        if [entry[:2] for entry in found] != [entry[:2] for entry in self._expected]:
            logger.info("weights cannot be compared with what was sent: %s against %s", found, self._expected)
        elif found != self._expected:
            raise WeightSyncError(
                f"vLLM holds other weights than were sent: {found} against {self._expected}; this is a fault of the "
                "transfer or of vLLM's loader for this model"
            )
        else:
            logger.info("weights are those that were sent: %s", found)

    def _found(self) -> tuple[Contents, ...]:
        """The contents of the whole model; a parameter that several layers share counts once."""
        seen: set[int] = set()
        parts: list[Contents] = []
        for layer in self._model.modules():
            read = self._loaded.get(layer, {})
            for name, own in _own_parameters(layer).items():
                shared = id(getattr(layer, name))
                if shared not in seen:
                    seen.add(shared)
                    parts += read[name] if name in read else contents([own])
        return merged(parts)


def _own_parameters(layer: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The layer's parameters without those of its parts; of a vocabulary's, the rows that stand for tokens."""
    own: dict[str, torch.Tensor] = {name: value.data for name, value in layer.named_parameters(recurse=False)}
    if isinstance(layer, VocabParallelEmbedding):
        own = {name: value[: layer.shard_indices.num_org_elements] for name, value in own.items()}
    return own
