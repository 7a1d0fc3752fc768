"""The sizes of a model: from config.json where it is at hand, else those of the models that the presets name."""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gainrl_ray.config import ModelConfig
from gainrl_ray.errors import ModelError
from gainrl_ray.model.loading import model_folder
from gainrl_ray.model.shapes import SHAPES

FAMILIES = {"qwen2": True, "qwen3": False, "llama": False, "mistral": False}
"""model_type -> whether queries, keys and values have a bias when config.json does not say."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A decoder of the Llama family: grouped-query attention, gated feed-forward layers, RMS norms."""

    layers: int
    hidden: int
    intermediate: int
    heads: int
    key_value_heads: int
    head_size: int
    vocabulary: int
    tied: bool
    qkv_bias: bool
    output_bias: bool = False
    head_norms: bool = False  # of queries and keys (Qwen3)

    @property
    def layer_parameters(self) -> int:
        """Weights of one layer."""
        queries, keys = self.heads * self.head_size, self.key_value_heads * self.head_size
        attention = self.hidden * (2 * queries + 2 * keys)
        biases = (queries + 2 * keys) * self.qkv_bias + self.hidden * self.output_bias
        return attention + biases + 3 * self.hidden * self.intermediate + 2 * self.hidden + self._head_norms

    @property
    def _head_norms(self) -> int:
        return 2 * self.head_size * self.head_norms

    @property
    def embedding_parameters(self) -> int:
        """Weights of one embedding."""
        return self.vocabulary * self.hidden

    @property
    def body_parameters(self) -> int:
        """Weights that every token meets: all but the embeddings."""
        return self.layers * self.layer_parameters + self.hidden

    @property
    def parameters(self) -> int:
        """All weights, a tied embedding once."""
        return self.body_parameters + self.embedding_parameters * (1 if self.tied else 2)

    def kv_values(self, tensor_parallel: int) -> int:
        """Numbers that one token keeps in the cache of one of an engine's GPUs; few heads are repeated."""
        return 2 * self.layers * self.head_size * max(1, self.key_value_heads // tensor_parallel)


def model_shape(config: ModelConfig) -> ModelShape:
    """The shape of model.path.

    Raises ModelError for a folder that cannot be used, a family without a formula here, or an unknown hub name.
    """
    if config.path == "smollm2-135m":  # known without fetching it
        return SMOLLM2_135M
    folder = model_folder(config)
    file = Path(folder) / "config.json"
    if file.is_file():
        try:
            return shape_from_json(json.loads(file.read_text()))
        except (ValueError, KeyError, TypeError) as error:
            raise ModelError(f"model.path {config.path!r}: {file} cannot be used for planning: {error}") from error
    found = re.fullmatch(r"Qwen/Qwen2\.5-(?:Math-|Coder-)?(0\.5B|1\.5B|7B)(?:-Instruct)?", folder)
    if found:
        sizes = SHAPES[found[1].lower()]
        return ModelShape(
            layers=sizes.layers,
            hidden=sizes.hidden,
            intermediate=sizes.intermediate,
            heads=sizes.heads,
            key_value_heads=sizes.key_value_heads,
            head_size=sizes.hidden // sizes.heads,
            vocabulary=sizes.vocabulary,
            tied=sizes.tied,
            qkv_bias=True,
        )
    if re.fullmatch(r"meta-llama/Llama-3\.2-3B(?:-Instruct)?", folder):
        return LLAMA_3B
    raise ModelError(
        f"model.path {config.path!r} is not on this machine and its sizes are not known here: give a folder with its "
        "config.json (its weights are not needed), Qwen/Qwen2.5-{0.5B,1.5B,7B} or meta-llama/Llama-3.2-3B"
    )


LLAMA_3B = ModelShape(
    layers=28,
    hidden=3072,
    intermediate=8192,
    heads=24,
    key_value_heads=8,
    head_size=128,
    vocabulary=128_256,
    tied=True,
    qkv_bias=False,
)
"""Llama 3.2 3B, after its published config.json."""

SMOLLM2_135M = ModelShape(
    layers=30,
    hidden=576,
    intermediate=1536,
    heads=9,
    key_value_heads=3,
    head_size=64,
    vocabulary=49_152,
    tied=True,
    qkv_bias=False,
)
"""SmolLM2 135M, after its published config.json."""


def shape_from_json(values: dict[str, Any]) -> ModelShape:
    """The shape that a Hugging Face config.json describes. Raises ValueError for another family, KeyError."""
    family = values.get("model_type")
    if family not in FAMILIES:
        raise ValueError(f"model_type is {family!r}, parameters are counted for {', '.join(FAMILIES)}")
    heads = values["num_attention_heads"]
    bias = values.get("attention_bias", FAMILIES[family])
    return ModelShape(
        layers=values["num_hidden_layers"],
        hidden=values["hidden_size"],
        intermediate=values["intermediate_size"],
        heads=heads,
        key_value_heads=values.get("num_key_value_heads") or heads,
        head_size=values.get("head_dim") or values["hidden_size"] // heads,
        vocabulary=values["vocab_size"],
        tied=values.get("tie_word_embeddings", False),
        qkv_bias=bias,
        output_bias=bias and family != "qwen2",
        head_norms=family == "qwen3",
    )
