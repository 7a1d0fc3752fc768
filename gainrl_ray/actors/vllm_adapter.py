"""A policy's adapter in a vLLM engine: one at a time, each version under an id of its own."""

import json
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

from gainrl_ray.actors.buckets import WeightBucket, unpack
from gainrl_ray.config import LoraConfig
from gainrl_ray.errors import WeightSyncError


def lora_arguments(lora: LoraConfig) -> dict[str, Any]:
    """Arguments of vLLM's EngineArgs for an engine that applies one adapter; none when adapters do not travel."""
    if not lora.sends_adapters:
        return {}
    from vllm.config.lora import MaxLoRARanks

    room = min(rank for rank in get_args(MaxLoRARanks) if rank >= lora.rank)
    return {"enable_lora": True, "max_loras": 1, "max_lora_rank": room}


class AdapterSlot:
    """The place of the present adapter in an engine."""

    def __init__(self, engine: Any, lora: LoraConfig) -> None:
        """`engine`: vLLM's LLMEngine, built with `lora_arguments`."""
        self._engine, self._lora = engine, lora
        self._loads = 0
        self.request: Any = None
        """vLLM's LoRARequest of the present adapter, for every request; None before the first."""

    def load(self, buckets: Iterable[WeightBucket]) -> tuple[float, float, int]:
        """Put the buckets' adapter in the place of the present one.

        Returns (seconds waiting for buckets, seconds loading them, bytes). The adapter's id is a new one, so that
        vLLM takes nothing that it kept of an older adapter for this one's.
        Raises WeightSyncError for a damaged bucket, or when vLLM does not take the adapter.
        """
        from vllm.lora.request import LoRARequest

        begun = time.monotonic()
        arrived = list(buckets)
        pull_s = time.monotonic() - begun
        for bucket in arrived:
            bucket.check()
        self._drop()
        self._loads += 1
        with tempfile.TemporaryDirectory(prefix="gainrl-adapter-") as name:
            self._write(arrived, Path(name))
            request = LoRARequest(f"policy-{self._loads}", self._loads, name)
            if not self._engine.add_lora(request):
                raise WeightSyncError(f"vLLM did not take the adapter of {len(arrived)} buckets, and gave no reason")
        self.request = request
        return pull_s, time.monotonic() - begun - pull_s, sum(bucket.size for bucket in arrived)

    def _drop(self) -> None:
        if self.request is not None:
            self._engine.remove_lora(self.request.lora_int_id)
            self.request = None

    def _write(self, buckets: list[WeightBucket], folder: Path) -> None:
        """Fill a folder in peft's format, from which vLLM takes adapters; it holds them in memory then."""
        from safetensors.torch import save_file

        tensors = dict(item for bucket in buckets for item in unpack(bucket))
        save_file(tensors, folder / "adapter_model.safetensors")
        targets = sorted({name.rsplit(".", 3)[1] for name in tensors})
        settings = {
            "peft_type": "LORA",
            "r": self._lora.rank,
            "lora_alpha": self._lora.alpha,
            "target_modules": targets,
        }
        (folder / "adapter_config.json").write_text(json.dumps(settings))
