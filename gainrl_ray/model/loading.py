"""Models and tokenizers of the run, loaded or refused with a reason."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ModelError
from gainrl_ray.model.named import NAMED, named_folder

TINY_FOLDER = Path(__file__).parent / "tiny"
_NAMES = ", ".join(map(repr, ("tiny", *NAMED)))
_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
_CHUNK_BYTES = 1 << 22


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
    """The model's transformers tokenizer. Raises ModelError when there is none that loads."""
    from transformers import AutoTokenizer

    folder = model_folder(config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, revision=_revision(config), trust_remote_code=config.trust_remote_code
        )
    except Exception as error:
        raise ModelError(
            f"model.path {config.path!r}: its tokenizer does not load ({_brief(error)}); "
            "the folder needs tokenizer.json and tokenizer_config.json"
        ) from error
    # Without tokenizer files transformers returns one that knows special tokens only.
    if len(tokenizer) <= len(tokenizer.all_special_ids):
        raise ModelError(f"model.path {config.path!r} has no tokenizer: add tokenizer.json and tokenizer_config.json")
    return tokenizer


def load_model(config: ModelConfig, dtype: str | None = None) -> Any:
    """The PreTrainedModel (causal language model) in evaluation mode on the CPU.

    Weights come from safetensors, else from a `.bin` read by `torch.load(weights_only=True)`.
    `dtype`: "float32" or "bfloat16"; none = `config.dtype`.
    Raises ModelError when it is no causal language model, or when weights are unreadable, of other shapes or missing
    (transformers would draw missing ones at random).
    """
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()

    architecture = _causal_config(config)
    loader: Any = AutoModelForCausalLM
    try:
        model, loaded = loader.from_pretrained(
            model_folder(config),
            config=architecture,
            revision=_revision(config),
            dtype=getattr(torch, dtype or config.dtype),
            attn_implementation=config.attention,
            trust_remote_code=config.trust_remote_code,
            weights_only=True,
            output_loading_info=True,
        )
    except Exception as error:
        raise ModelError(f"model.path {config.path!r}: its weights do not load ({_brief(error)})") from error
    if loaded["missing_keys"]:
        missing = sorted(loaded["missing_keys"])
        raise ModelError(
            f"model.path {config.path!r} lacks {len(missing)} weights of its {type(model).__name__} "
            f"({', '.join(missing[:3])}{', ...' if len(missing) > 3 else ''}): they would be random; "
            "give a folder with all weights"
        )
    model.eval()
    return model


def check_model(config: ModelConfig) -> Any:
    """The model's tokenizer, after checking it against the model's config and weight files' headers.

    Raises ModelError for what `load_tokenizer` refuses, for anything but a causal language model, for a tokenizer
    with ids beyond the embedding's rows, and for damaged weight files.
    """
    rows = _causal_config(config).get_text_config().vocab_size
    tokenizer = load_tokenizer(config)
    if len(tokenizer) > rows:
        raise ModelError(
            f"model.path {config.path!r}: the tokenizer has {len(tokenizer)} tokens, the embedding {rows} rows; "
            "tokenizer and weights are of different models"
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
    """Raise ModelError when prompts and completions may be longer than the model has positions.

    Without a word on models that stretch their positions (rope scaling): how far is for vLLM to say.
    """
    text = _causal_config(config.model).get_text_config()
    positions = getattr(text, "max_position_embeddings", None)
    if positions is None or "factor" in str(getattr(text, "rope_parameters", None)):
        return
    if config.sequence_tokens > positions:
        raise ModelError(
            f"model.path {config.model.path!r} has {positions} positions; data.prompt.max_tokens "
            f"{config.data.prompt.max_tokens} and rollout.max_new_tokens {config.rollout.max_new_tokens} need "
            f"{config.sequence_tokens}: lower one of them"
        )


def named_as_on_disk(model: Any, name: str, tensor: Any) -> Iterator[tuple[str, Any]]:
    """The tensor under the name, or in the parts, that its checkpoint file has: transformers merges and renames some
    on loading, experts for example."""
    from transformers.core_model_loading import revert_weight_conversion

    for part, value in revert_weight_conversion(model, {name: tensor}).items():
        yield part, value.contiguous()


def model_digest(config: ModelConfig) -> str:
    """Hex sha256 that changes whenever the model's function may: config.json and the bytes of all weight files.

    For a hub name: of the name and the commit it resolves to. Raises ModelError when there is nothing to digest.
    """
    folder = model_folder(config)
    if not Path(folder).is_dir():
        return hashlib.sha256(f"hub:{folder}@{_hub_commit(config)}".encode()).hexdigest()
    files = sorted({path for pattern in _WEIGHT_PATTERNS for path in Path(folder).glob(pattern)})
    if not files:
        raise ModelError(f"model.path {config.path!r} holds no weights: expected *.safetensors or pytorch_model*.bin")
    stats = [(path, path.stat()) for path in (Path(folder) / "config.json", *files)]
    return _files_digest(tuple((path, stat.st_size, stat.st_mtime_ns) for path, stat in stats))


@lru_cache(maxsize=8)  # a large model's weights take long to read, and several signals ask
def _files_digest(files: tuple[tuple[Path, int, int], ...]) -> str:
    """Hex sha256 of names, sizes and bytes; files: path, size, time of the last change."""
    digest = hashlib.sha256()
    for path, size, _ in files:
        digest.update(f"{path.name}:{size}:".encode())
        for chunk in _chunks(path):
            digest.update(chunk)
    return digest.hexdigest()


def pad_token_id(tokenizer: Any) -> int:
    """The id that fills padded positions: the tokenizer's pad, else its eos, else 0 (padding is masked anyway)."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


def _causal_config(config: ModelConfig) -> Any:
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
            f"model.path {config.path!r}: its config does not load ({_brief(error)}); accepted are {_NAMES}, a "
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


def _hub_commit(config: ModelConfig) -> str:
    """The commit that a hub name resolves to, from the hub or from the local cache when the hub is out of reach."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(config.path, revision=config.revision, allow_patterns=["config.json"])
    except Exception as error:
        raise ModelError(
            f"model.path {config.path!r} is neither 'tiny', nor a folder, nor a hub model that can be reached "
            f"({_brief(error)})"
        ) from error
    return Path(snapshot).name


def _revision(config: ModelConfig) -> str:
    """The hub revision; that of a folder has no effect."""
    return config.revision or "main"


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, piece by piece."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk


def _brief(error: Exception) -> str:
    """Type and first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"
