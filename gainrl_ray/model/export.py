"""What an exported folder holds beside its weights, written once before a run trains so that it cannot fail after."""

import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.errors import GainrlError, ModelError
from gainrl_ray.model.loading import causal_config, check_model, model_folder
from gainrl_ray.model.lora import add_adapters, save_adapter_config

ADAPTER_FOLDER = "adapter"


@dataclass(frozen=True, slots=True)
class ExportSizes:
    """Bytes that a run writes at a time."""

    export: int  # an exported folder
    checkpoint: int  # a learner checkpoint: what is trained, with Adam's states in float32


def write_settings(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write config, generation config and tokenizer beside a model's weights."""
    from transformers import GenerationConfig

    model.config.architectures = [type(model).__name__]
    model.config.save_pretrained(folder)
    if isinstance(model.generation_config, GenerationConfig):
        # As it was loaded: `save_pretrained` refuses what does not validate, a temperature without do_sample.
        model.generation_config.to_json_file(folder / "generation_config.json")
    tokenizer.save_pretrained(folder)


def write_adapter_settings(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write peft's config and the tokenizer beside an adapter's weights."""
    save_adapter_config(model, folder)
    tokenizer.save_pretrained(folder)


def rehearse_export(config: Config) -> ExportSizes:
    """Write all but the weights of the run's exports into a temporary folder; how large exports and checkpoints get.

    Takes no memory for weights.
    Raises ModelError for settings that cannot be written, and as `check_model` and `add_adapters`.
    """
    tokenizer = check_model(config.model)
    try:
        model = without_weights(config.model)
        if config.lora.rank:
            add_adapters(model, config.lora, seed=config.run.seed)
        with tempfile.TemporaryDirectory(prefix="gainrl-") as name:
            for part, write in (("model", write_settings), (ADAPTER_FOLDER, write_adapter_settings)):
                if part in config.lora.export_parts:
                    write(model, tokenizer, Path(name))
    except GainrlError:
        raise
    except Exception as error:
        first = str(error).strip().splitlines() or [""]
        raise ModelError(
            f"model.path {config.model.path!r}: after training its settings could not be exported "
            f"({type(error).__name__}: {first[0]}): mend config.json, generation_config.json or the tokenizer's files, "
            f"or make room in {tempfile.gettempdir()}, where they were written on trial"
        ) from error
    return _sizes(model, config)


def without_weights(config: ModelConfig) -> Any:
    """The model with the settings of its folder; its parameters are on the meta device."""
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    folder, revision, architecture = model_folder(config), config.revision or "main", causal_config(config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            architecture, dtype=getattr(torch, config.dtype), trust_remote_code=config.trust_remote_code
        )
    with suppress(OSError):  # without one it follows from the config
        model.generation_config = GenerationConfig.from_pretrained(folder, revision=revision)
    return model


def _sizes(model: Any, config: Config) -> ExportSizes:
    parameters = list(model.named_parameters())
    adapters = {name for name, _ in parameters if ".lora_" in name}
    sizes = {"model": 0, ADAPTER_FOLDER: 0}
    for name, parameter in parameters:
        sizes[ADAPTER_FOLDER if name in adapters else "model"] += parameter.numel() * parameter.element_size()
    trained = sum(weight.numel() for name, weight in parameters if not adapters or name in adapters)
    # Two moments, and a float32 copy of weights that are kept in another precision.
    per_weight = 4 + 8 if config.model.dtype == "float32" else 2 + 4 + 8
    return ExportSizes(export=sum(sizes[part] for part in config.lora.export_parts), checkpoint=trained * per_weight)
