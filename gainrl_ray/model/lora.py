"""Low-rank adapters in a transformers model: put in by peft, switched off for a while, read out merged or alone."""

import copy
import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gainrl_ray.algo.randomness import coordinate_seed
from gainrl_ray.config import Config, LoraConfig
from gainrl_ray.errors import ConfigError
from gainrl_ray.model.loading import load_model

_ADAPTER = "default"  # peft's name of a model's only adapter
_FACTORS = ("lora_A", "lora_B")


@dataclass(frozen=True, slots=True)
class WeightSource:
    """A weight as files and engines know it, and the parameters that it is computed from.

    They may be sharded by ZeRO-3: gather all of `parameters` before `value`.
    """

    name: str
    weight: Tensor
    factors: tuple[Tensor, Tensor] | None = None  # A [rank, in] and B [out, rank] of an adapted weight [out, in]
    scale: float = 0.0
    transposed: bool = False  # the weight is [in, out]

    @property
    def parameters(self) -> list[Tensor]:
        """All that must be whole for `value`."""
        return [self.weight, *(self.factors or ())]

    @property
    def size(self) -> int:
        """Bytes of the value."""
        return _numel(self.weight) * self.weight.element_size()

    def value(self, *, on_host: bool = True) -> Tensor:
        """The weight, or weight + scale * B A, summed in float32 and rounded to its dtype once.

        It is on the CPU, or without `on_host` where the weight is. A weight that lies whole there is shared; one that
        ZeRO-3 gathered for the moment is copied.
        """
        weight = self.weight.detach()
        if self.factors is None:
            value = weight.cpu() if on_host else weight
            return value.clone() if hasattr(self.weight, "ds_id") and value.data_ptr() == weight.data_ptr() else value
        down, up = (factor.detach().float() for factor in self.factors)
        change = (up @ down).T if self.transposed else up @ down
        merged = (weight.float() + self.scale * change).to(weight.dtype)
        return merged.cpu() if on_host else merged


class WithoutAdapters:
    """A callable that runs the policy as it was before training: the reference policy, at no memory of its own."""

    def __init__(self, forward: Callable[..., Any], policy: nn.Module) -> None:
        """`forward`: the policy itself or the DeepSpeed engine around it; `policy`: the module with the adapters."""
        self._forward, self.module = forward, policy

    def __call__(self, *arguments: Any, **inputs: Any) -> Any:
        with adapters_off(self.module):
            return self._forward(*arguments, **inputs)


def check_peft(config: LoraConfig) -> None:
    """Nothing; raises ConfigError when adapters are asked for and the package that makes them is not installed."""
    if config.rank and importlib.util.find_spec("peft") is None:
        raise ConfigError(
            f"lora.rank={config.rank} needs the package peft, which is not installed: install gainrl-ray with its "
            "extra `lora` (`uv pip install 'gainrl-ray[lora]'`, in a checkout `uv pip install -e '.[lora]'`), "
            "or set lora.rank=0"
        )


def load_trained(config: Config) -> Any:
    """The model to train: as `load_model` gives it, with adapters when `config.lora` says so. Raises as both."""
    model = load_model(config.model, sequence_tokens=config.sequence_tokens)
    if config.lora.rank:
        add_adapters(model, config.lora, seed=config.run.seed)
    return model


def add_adapters(model: Any, config: LoraConfig, *, seed: int) -> None:
    """Put adapters into the model's linear layers and freeze all else; the model's function stays as it is.

    The first factor is drawn from `seed`, the second is 0. Everything around the model goes on seeing a transformers
    model: peft's layers take the place of the linear ones.
    Raises ConfigError when peft is missing, or when a name of `lora.targets` is that of no linear layer.
    """
    check_peft(config)
    _check_targets(model, config.targets)
    from peft import LoraConfig as PeftConfig
    from peft import inject_adapter_in_model

    settings = PeftConfig(
        base_model_name_or_path=model.name_or_path,
        task_type="CAUSAL_LM",
        r=config.rank,
        lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=0.0,
        target_modules=list(config.targets) or "all-linear",
        fan_in_fan_out=any(True for _ in _linear_layers(model, transposed=True)),
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(coordinate_seed(seed, "lora"))
        inject_adapter_in_model(settings, model)


@contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """The model without its adapters' part.

    peft's own switch would also take the gradient from the adapters' parameters, on which ZeRO has its hooks.
    """
    layers = list(_adapted(model).values())
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer in layers:
            layer._disable_adapters = False


def merged_sources(model: Any) -> Iterator[WeightSource]:
    """Every weight of the model by the name it has without adapters, tied ones once, adapters merged in."""
    adapted = _adapted(model)
    seen: set[int] = set()
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen or any(name.partition(f".{factor}.")[0] in adapted for factor in _FACTORS):
            continue
        seen.add(id(tensor))
        path, _, own = name.rpartition(".base_layer.")
        layer = adapted.get(path)
        if layer is None:
            yield WeightSource(name, tensor)
        elif own != "weight":
            yield WeightSource(f"{path}.{own}", tensor)
        else:
            down, up = (getattr(layer, factor)[_ADAPTER].weight for factor in _FACTORS)
            yield WeightSource(f"{path}.weight", tensor, (down, up), layer.scaling[_ADAPTER], layer.fan_in_fan_out)


def adapter_sources(model: Any) -> Iterator[WeightSource]:
    """The adapters' factors, by the names they have in a file that peft writes."""
    for path, layer in _adapted(model).items():
        for factor in _FACTORS:
            yield WeightSource(f"base_model.model.{path}.{factor}.weight", getattr(layer, factor)[_ADAPTER].weight)


def save_adapter_config(model: Any, folder: Path) -> None:
    """Write peft's adapter_config.json of a model with adapters."""
    settings = copy.copy(model.peft_config[_ADAPTER])
    settings.inference_mode = True
    settings.target_modules = sorted(settings.target_modules)
    settings.save_pretrained(str(folder))


def _adapted(model: nn.Module) -> dict[str, Any]:
    """peft's layers by the paths of the linear layers whose places they took; empty without adapters."""
    return {path: module for path, module in model.named_modules() if hasattr(module, "lora_A")}


def _linear_layers(model: Any, *, transposed: bool) -> Iterator[str]:
    """Paths of the linear layers that may get an adapter: all but the output head.

    `transposed`: those of GPT-2's kind, whose weight is [in, out].
    """
    from transformers.pytorch_utils import Conv1D

    head = model.get_output_embeddings()
    kind = Conv1D if transposed else nn.Linear
    yield from (path for path, module in model.named_modules() if isinstance(module, kind) and module is not head)


def _check_targets(model: Any, targets: tuple[str, ...]) -> None:
    paths = [*_linear_layers(model, transposed=False), *_linear_layers(model, transposed=True)]
    names = sorted({path.rpartition(".")[2] for path in paths})
    wrong = sorted(set(targets) - set(names))
    if wrong:
        raise ConfigError(
            f"lora.targets: {', '.join(wrong)} names no linear layer of {type(model).__name__} but its head; "
            f"accepted are {', '.join(names)}, or [] for all of them"
        )


def _numel(tensor: Tensor) -> int:
    # A weight that ZeRO-3 shards has no elements of its own; ds_numel is its full size.
    return getattr(tensor, "ds_numel", tensor.numel())
