"""What leaves and enters a DeepSpeed engine as files and tensors: full weights, Hugging Face folders, shards."""

import contextlib
import io
import json
import os
import pickle
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError, DataError
from gainrl_ray.model.export import ADAPTER_FOLDER, write_adapter_settings, write_settings
from gainrl_ray.model.loading import named_as_on_disk
from gainrl_ray.model.lora import WeightSource, adapter_sources, merged_sources

SHARD_BYTES = 4 << 30
"""Largest file of an exported model."""
GATHER_BYTES = 256 << 20
"""Weights gathered at a time under ZeRO-3."""

_TAG = "engine"
_MANIFEST = "engine.json"


def gathered_weights(model: Any, *, rank: int, on_host: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(Hugging Face name, full tensor) of every weight, tied ones once; nothing on ranks other than 0.

    All ranks must exhaust it together, since under ZeRO-3 each bucket is gathered from all of them. Tensors have the
    model's dtype, with adapters merged in, and are on the CPU, or without `on_host` where the weights are; those that
    lie whole there are shared with the model, not copied. Names are those of checkpoint files: what transformers
    merges or renames on loading (experts, for example) is taken apart again.
    """
    for name, tensor in _gathered(merged_sources(model), rank=rank, on_host=on_host):
        yield from named_as_on_disk(model, name, tensor)


def gathered_adapters(model: Any, *, rank: int, on_host: bool = True) -> Iterator[tuple[str, Tensor]]:
    """(name in a peft file, full tensor) of the adapters' factors; collective like `gathered_weights`."""
    return _gathered(adapter_sources(model), rank=rank, on_host=on_host)


def export_folder(model: Any, tokenizer: Any, folder: Path, *, rank: int, parts: Collection[str]) -> None:
    """Write a folder that transformers and vLLM load; collective, written by rank 0.

    `parts`: `model` for config, tokenizer and safetensors, `adapter` for a folder of that name in peft's format.
    The folder appears whole: it is written beside its place and renamed, and replaces an older one.
    Raises on rank 0 what kept it from being written, once the other ranks are through.
    """
    draft = folder.with_name(f".{folder.name}.draft")
    writers = {"model": (gathered_weights, _write_model), ADAPTER_FOLDER: (gathered_adapters, _write_adapter)}
    failure = _failure(_start_draft, draft) if rank == 0 else None
    for part in parts:
        gather, write = writers[part]
        weights = gather(model, rank=rank)
        if rank == 0 and failure is None:
            failure = _failure(write, model, tokenizer, weights, draft)
        for _ in weights:
            pass
    if failure is not None:
        shutil.rmtree(draft, ignore_errors=True)
        raise failure
    if rank == 0:
        _replace(draft, folder)


def checkpoint_facts(config: Config, ranks: int) -> dict[str, Any]:
    """What a checkpoint has in common with the run that continues it."""
    lora = config.lora
    return {
        "learner.workers": ranks,
        "learner.zero_stage": config.learner.zero_stage,
        "model.dtype": config.model.dtype,
        "lora": {"rank": lora.rank, "alpha": lora.alpha, "targets": [*lora.targets]} if lora.rank else None,
    }


def save_shards(engine: Any, folder: Path, facts: dict[str, Any]) -> None:
    """Write this rank's files of the engine (weights that are trained, optimizer); collective.

    `facts` is the manifest. Frozen weights are left to the model's folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with _trained_only(engine.module):
        engine.save_checkpoint(str(folder), tag=_TAG, save_latest=False, exclude_frozen_parameters=True)
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
        path, _ = engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=not _is_partly_frozen(engine.module))
    if path is None:
        raise DataError(f"the learner checkpoint in {folder} is incomplete: DeepSpeed found no files for {_TAG!r}")


def _is_partly_frozen(module: nn.Module) -> bool:
    return any(not weight.requires_grad for weight in module.parameters())


@contextlib.contextmanager
def _trained_only(module: nn.Module) -> Iterator[None]:
    """Leave frozen weights out of the module's state: DeepSpeed would keep one that goes by two names (a tied head)."""

    def drop(_: nn.Module, state: dict[str, Any], prefix: str, __: Any) -> None:
        kept = {f"{prefix}{name}" for name, weight in module.named_parameters() if weight.requires_grad}
        for name in state.keys() - kept:
            del state[name]

    handle = module.register_state_dict_post_hook(drop) if _is_partly_frozen(module) else None
    try:
        yield
    finally:
        if handle is not None:
            handle.remove()


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


def _gathered(sources: Iterable[WeightSource], *, rank: int, on_host: bool) -> Iterator[tuple[str, Tensor]]:
    """(name, value) of every source on rank 0, nothing elsewhere; collective."""
    from deepspeed import zero

    for bucket in _buckets(sources):
        with zero.GatheredParameters([parameter for source in bucket for parameter in source.parameters]):
            # Within the context: after it a gathered parameter is empty again.
            values = [(source.name, source.value(on_host=on_host)) for source in bucket] if rank == 0 else []
        yield from values


def _buckets(sources: Iterable[WeightSource]) -> Iterator[list[WeightSource]]:
    """The sources in order, cut into lists of at most GATHER_BYTES (or one weight)."""
    bucket: list[WeightSource] = []
    size = 0
    for source in sources:
        if bucket and size + source.size > GATHER_BYTES:
            yield bucket
            bucket, size = [], 0
        bucket.append(source)
        size += source.size
    if bucket:
        yield bucket


def _start_draft(draft: Path) -> None:
    shutil.rmtree(draft, ignore_errors=True)
    draft.mkdir(parents=True)


def _failure(act: Callable[..., None], *arguments: Any) -> Exception | None:
    """What `act` raised: the others wait in the next gather, so it is to be raised later."""
    try:
        act(*arguments)
    except Exception as error:
        return error
    return None


def _write_model(model: Any, tokenizer: Any, weights: Iterator[tuple[str, Tensor]], draft: Path) -> None:
    _write_shards(weights, draft)
    write_settings(model, tokenizer, draft)


def _write_adapter(model: Any, tokenizer: Any, weights: Iterator[tuple[str, Tensor]], draft: Path) -> None:
    from safetensors.torch import save_file

    folder = draft / ADAPTER_FOLDER
    folder.mkdir()
    save_file(dict(weights), folder / "adapter_model.safetensors", metadata={"format": "pt"})
    write_adapter_settings(model, tokenizer, folder)


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
