"""Models and tokenizers of the run, loaded or refused with a reason."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.data.vocabulary import ROWS, UNUSED_IDS, rowless_tokens, unused_ids
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ModelError
from gainrl_ray.model.named import NAMED, named_folder
from gainrl_ray.model.positions import disagreement, fix_rope_factors
from gainrl_ray.model.wide_head import widen_head

TINY_FOLDER = Path(__file__).parent / "tiny"
_NAMES = ", ".join(map(repr, ("tiny", *NAMED)))

logger = logging.getLogger(__name__)


def model_folder(config: ModelConfig) -> str:
    """The folder or hub name that transformers and vLLM are given; `tiny` becomes the packaged folder, a named model
    the folder that this node keeps of it.

    Raises ModelError when the path reads like a folder and is none, is a folder without config.json, or names a model
    that cannot be fetched.
    """
    if config.path == "tiny":
        return str(TINY_FOLDER)
    if config.path in NAMED:
        return str(named_folder(NAMED[config.path], Environment().cache_dir / "models"))
    folder = Path(config.path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ModelError(
                f"model.path {config.path!r} is a folder without config.json: give a Hugging Face model folder"
            )
        return str(folder)
    if folder.exists() or config.path.startswith((".", "/", "~")) or config.path.count("/") > 1:
        raise ModelError(
            f"model.path {config.path!r} is no folder: accepted are {_NAMES}, an existing Hugging Face model "
            "folder, or a hub name such as 'Qwen/Qwen2.5-0.5B-Instruct'"
        )
    return config.path


def load_tokenizer(config: ModelConfig) -> Any:
    """The model's transformers tokenizer; its attribute `embedding_rows` is the number of ids that the model knows.

    Raises ModelError when there is none that loads.
    """
    from transformers import AutoTokenizer

    folder = model_folder(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, revision=_revision(config), trust_remote_code=config.trust_remote_code
        )
    except Exception as error:
        raise ModelError(
            f"model.path {config.path!r}: its tokenizer does not load ({brief(error)}); "
            "the folder needs tokenizer.json and tokenizer_config.json"
        ) from error
    # Without tokenizer files transformers returns one that knows special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(f"model.path {config.path!r} has no tokenizer: add tokenizer.json and tokenizer_config.json")
    setattr(tokenizer, ROWS, embedding_rows(config))
    return tokenizer


def load_model(config: ModelConfig, dtype: str | None = None, sequence_tokens: int | None = None) -> Any:
    """The PreTrainedModel (causal language model) in evaluation mode on the CPU.

    Weights come from safetensors, else from a `.bin` read by `torch.load(weights_only=True)`.
    `dtype`: "float32" or "bfloat16"; none = `config.dtype`. Its buffer `unused_ids` holds the ids that stand for no
    token, where there are any. With `sequence_tokens`, the longest that an engine generates, its positions are the
    engine's (see `fix_rope_factors`).
    Raises ModelError when it is no causal language model, or when weights are unreadable, of other shapes or missing
    (transformers would draw missing ones at random).
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    architecture = causal_config(config)
    loader: Any = AutoModelForCausalLM
    try:
        model, loaded = loader.from_pretrained(
            model_folder(config),
            config=architecture,
            revision=_revision(config),
            dtype=getattr(torch, dtype or config.dtype),
            attn_implementation=attention(config),
            trust_remote_code=config.trust_remote_code,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"model.path {config.path!r}: its weights do not load ({brief(error)})") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ModelError(
            f"model.path {config.path!r} lacks {len(missing)} weights of its {type(model).__name__} "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): they would be random; "
            "give a folder with all weights"
        )
    if unused := ids_without_token(config):
        model.register_buffer(UNUSED_IDS, torch.tensor(unused), persistent=False)
    if sequence_tokens is not None:
        fix_rope_factors(model, sequence_tokens)
    if config.head_dtype == "float32" and model.dtype != torch.float32:
        widen_head(model)
    model.eval()
    return model


def attention(config: ModelConfig) -> str:
    """`config.attention`, or eager where sdpa would leave out a part of the model's attention.

    That is the cap on its scores (Gemma 2), which transformers hands to sdpa in vain, and attention sinks (gpt-oss).
    """
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    architecture = causal_config(config)
    is_capped = getattr(architecture.get_text_config(), "attn_logit_softcapping", None) is not None
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(architecture), None)
    takes_sdpa = not is_capped and getattr(kind, "_supports_sdpa", True)
    return "eager" if config.attention == "sdpa" and not takes_sdpa else config.attention


def ids_without_token(config: ModelConfig) -> tuple[int, ...]:
    """As `unused_ids`, of the model and its tokenizer. Raises as `load_tokenizer`."""
    return unused_ids(load_tokenizer(config), embedding_rows(config))


def embedding_rows(config: ModelConfig) -> int:
    """The number of ids that the model knows. Raises ModelError unless it is a causal language model."""
    return causal_config(config).get_text_config().vocab_size


def check_model(config: ModelConfig) -> Any:
    """The model's tokenizer, after checking it against the model's config and weight files' headers.

    Raises ModelError for what `load_tokenizer` refuses, for anything but a causal language model, for a tokenizer
    whose vocabulary (but for added tokens) goes beyond the embedding's rows, and for damaged weight files.
    """
    rows, tokenizer = embedding_rows(config), load_tokenizer(config)
    added = tokenizer.added_tokens_decoder
    rowless = rowless_tokens(tokenizer, (each for each in tokenizer.get_vocab().values() if each not in added))
    if rowless:
        raise ModelError(
            f"model.path {config.path!r}: the tokenizer's vocabulary has {len(rowless)} tokens beyond the embedding's "
            f"{rows} rows, {rowless[0]!r} for one; tokenizer and weights are of different models"
        )
    if attention(config) != config.attention:
        logger.warning(
            "model.path %r: %s attention, since %s leaves out a part of this model's (a cap on scores, or sinks)",
            config.path,
            attention(config),
            config.attention,
        )
    _check_weight_files(config)
    return tokenizer


def _check_weight_files(config: ModelConfig) -> None:
    """Refuse a folder whose safetensors files are cut or damaged; reads their headers only."""
    from safetensors import SafetensorError, safe_open

    for path in sorted(Path(model_folder(config)).glob("*.safetensors")):
        try:
            with safe_open(path, "pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelError(
                f"model.path {config.path!r}: {path.name} is no readable weight file ({error}): copy it again"
            ) from error


def check_positions(config: Config) -> None:
    """Raise ModelError when prompts and completions may be longer than the model has positions, or than vLLM and
    transformers agree on it.

    Without a word on the positions of models that stretch them (rope scaling): how far is for vLLM to say.
    """
    text = causal_config(config.model).get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    problem = disagreement(text, config.sequence_tokens)
    is_stretched = "factor" in str(getattr(text, "rope_parameters", None))
    if positions is not None and not is_stretched and config.sequence_tokens > positions:
        problem = f"has {positions} positions"
    if problem is not None:
        raise ModelError(
            f"model.path {config.model.path!r} {problem}; data.prompt.max_tokens "
            f"{config.data.prompt.max_tokens} and rollout.max_new_tokens {config.rollout.max_new_tokens} need "
            f"{config.sequence_tokens}: lower one of them"
        )


def named_as_on_disk(model: Any, name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """The tensor under the name, or in the parts, that its checkpoint file has: transformers merges and renames some
    on loading, experts for example."""
    from transformers.core_model_loading import revert_weight_conversion

    for part, value in revert_weight_conversion(model, {name: tensor}).items():
        yield part, value.contiguous()


def weights_as_on_disk(model: Any) -> Iterator[tuple[str, Any]]:
    """Every weight of the model, tied ones once, as `named_as_on_disk` names it; shared with the model."""
    for name, tensor in model.named_parameters():
        yield from named_as_on_disk(model, name, tensor.detach())


def pad_token_id(tokenizer: Any) -> int:
    """The id that fills padded positions: the tokenizer's pad, else its eos, else 0 (padding is masked anyway).

    It is one that the model has a row for.
    """
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None and not rowless_tokens(tokenizer, [token_id]):
            return int(token_id)
    return 0


def causal_config(config: ModelConfig) -> Any:
    """The transformers config of the model. Raises ModelError unless it is that of a causal language model."""
    from transformers import AutoConfig
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    folder = model_folder(config)
    try:
        architecture = AutoConfig.from_pretrained(
            folder, revision=_revision(config), trust_remote_code=config.trust_remote_code
        )
    except Exception as error:
        raise ModelError(
            f"model.path {config.path!r}: its config does not load ({brief(error)}); accepted are {_NAMES}, a "
            "Hugging Face model folder or a hub name; a model with own code needs model.trust_remote_code=true"
        ) from error
    names = architecture.architectures or []
    causal = set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values())
    own_code = config.trust_remote_code and "AutoModelForCausalLM" in (getattr(architecture, "auto_map", None) or {})
    known = any(name in causal for name in names) or (not names and architecture.model_type in _mapped_types())
    if not (known or own_code) or getattr(architecture, "is_encoder_decoder", False):
        raise ModelError(
            f"model.path {config.path!r} is no causal language model: its config.json names "
            f"{names or architecture.model_type}; accepted are classes such as Qwen2ForCausalLM, LlamaForCausalLM"
        )
    return architecture


def _mapped_types() -> set[str]:
    """The model types for which transformers has a causal language model."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)


def _revision(config: ModelConfig) -> str:
    """The hub revision; that of a folder has no effect."""
    return config.revision or "main"


def brief(error: Exception) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
