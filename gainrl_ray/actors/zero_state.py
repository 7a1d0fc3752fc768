"""What leaves and enters a DeepSpeed engine as files and tensors: full weights, Hugging Face folders, shards."""

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.model.loading import named_as_on_disk

SHARD_BYTES = 4 << 30
"""Largest file of an exported model."""
GATHER_BYTES = 256 << 20
"""Weights gathered at a time under ZeRO-3."""

_TAG = "engine"
_MANIFEST = "engine.json"


def gathered_weights(model: Any, *, rank: int) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, full tensor on the CPU) of every weight, tied ones once; nothing on ranks other than 0.

    All ranks must exhaust it together, since under ZeRO-3 each bucket is gathered from all of them. Tensors have the
    model's dtype; those that lie whole in this process's memory are shared with the model, not copied. Names are
    those of checkpoint files: what transformers merges or renames on loading (experts, for example) is taken apart
    again.
    """
    from deepspeed import zero

    for bucket in _buckets(model):
        with zero.GatheredParameters([tensor for _, tensor in bucket]):
            held = [(name, _on_host(tensor)) for name, tensor in bucket] if rank == 0 else []
        for name, tensor in held:
            yield from named_as_on_disk(model, name, tensor)


def export_folder(model: Any, tokenizer: Any, folder: Path, *, rank: int) -> None:
    """Write config, tokenizer and safetensors that transformers and vLLM load; collective, written by rank 0.

    The folder appears whole: it is written beside its place and renamed, and replaces an older one.
    """
    weights = gathered_weights(model, rank=rank)
    if rank != 0:
        for _ in weights:
            pass
        return
    from transformers import GenerationConfig

    draft = folder.with_name(f".{folder.name}.draft")
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)
    _write_shards(weights, draft)
    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(draft)
    if isinstance(model.generation_config, GenerationConfig):
        model.generation_config.save_pretrained(draft)
    tokenizer.save_pretrained(draft)
    _replace(draft, folder)


def save_shards(engine: Any, folder: Path, facts: dict[str, Any]) -> None:
    """Write this rank's files of the engine (weights, optimizer); collective. `facts` is the manifest."""
    folder.mkdir(parents=True, exist_ok=True)
    engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False)
    (folder / "zero_to_fp32.py").unlink(missing_ok=True)
    if engine.global_rank == 0:
        (folder / _MANIFEST).write_text(json.dumps(facts))


def load_shards(engine: Any, folder: Path, facts: dict[str, Any]) -> None:
    """Bring the engine to the state in `folder`, exactly; collective.

    Raises DataError when there is none, ConfigError for one whose manifest differs from `facts` (ranks, stage, dtype).
    """
    manifest = folder / _MANIFEST
    if not manifest.is_file():
        raise DataError(f"{folder} holds no learner checkpoint: expected {_MANIFEST} and a folder {_TAG!r}")
    stored = json.loads(manifest.read_text())
    wrong = [
        f"{key}: checkpoint {stored.get(key)!r}, run {value!r}"
        for key, value in facts.items()
        if stored.get(key) != value
    ]
    if wrong:
        raise ConfigError(
            f"the learner checkpoint in {folder} was made by another set-up ({'; '.join(wrong)}): "
            "continue with the checkpoint's values, or start a new run from the exported model"
        )
    engine.checkpoint_engine.load = _load_checked
    with contextlib.redirect_stdout(io.StringIO()):
        path, _ = engine.load_checkpoint(str(folder), tag=_TAG)
    if path is None:
        raise DataError(f"the learner checkpoint in {folder} is incomplete: DeepSpeed found no files for {_TAG!r}")


def _load_checked(path: str, map_location: Any = None) -> Any:
    """A DeepSpeed checkpoint file, read without running what it might hold: only tensors and known classes."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    known = [LossScaler, DynamicLossScaler, ZeroStageEnum, fragment_address]
    try:
        with torch.serialization.safe_globals(known):
            return torch.load(path, map_location=map_location, weights_only=True)
    except (OSError, RuntimeError, pickle.UnpicklingError) as error:
        raise DataError(f"the learner checkpoint's file {path} cannot be read ({error}): use an older one") from error


def _buckets(model: Any) -> Iterator[list[tuple[str, Tensor]]]:
    """Named weights in the model's order, tied ones once, cut into lists of at most GATHER_BYTES (or one weight)."""
    seen: set[int] = set()
    bucket: list[tuple[str, Tensor]] = []
    size = 0
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        # A weight that ZeRO-3 shards has no elements of its own; ds_numel is its full size.
        weight_bytes = getattr(tensor, "ds_numel", tensor.numel()) * tensor.element_size()
        if bucket and size + weight_bytes > GATHER_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append((name, tensor))
        size += weight_bytes
    if bucket:
        yield bucket


def _on_host(tensor: Tensor) -> Tensor:
    """The weight in host memory; copied when it was only gathered for the moment, and is empty again after it."""
    host = tensor.detach().cpu()
    return host.clone() if hasattr(tensor, "ds_id") and host.data_ptr() == tensor.data_ptr() else host


def _write_shards(weights: Iterator[tuple[str, Tensor]], folder: Path) -> None:
    """Safetensors files of at most SHARD_BYTES and, when there are several, their index."""
    from safetensors.torch import save_file

    files: list[list[str]] = []
    shard: dict[str, Tensor] = {}
    total = size = 0

    def flush() -> None:
        save_file(shard, folder / f"part-{len(files)}", metadata={"format": "pt"})
        files.append(list(shard))
        shard.clear()

    for name, tensor in weights:
        if shard and size + tensor.nbytes > SHARD_BYTES:
            flush()
            size = 0
        shard[name] = tensor
        size, total = size + tensor.nbytes, total + tensor.nbytes
    flush()
    if len(files) == 1:
        (folder / "part-0").rename(folder / "model.safetensors")
        return
    names = [f"model-{number + 1:05d}-of-{len(files):05d}.safetensors" for number in range(len(files))]
    for number, name in enumerate(names):
        (folder / f"part-{number}").rename(folder / name)
    places = {weight: name for name, held in zip(names, files, strict=True) for weight in held}
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2))


def _replace(draft: Path, folder: Path) -> None:
    """Put the finished draft in the folder's place."""
    older = folder.with_name(f".{folder.name}.older")
    shutil.rmtree(older, ignore_errors=True)
    if folder.exists():
        os.rename(folder, older)
    os.rename(draft, folder)
    shutil.rmtree(older, ignore_errors=True)
