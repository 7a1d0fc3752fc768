"""What identifies a model: a digest of all that its function depends on."""

import hashlib
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from gainrl_ray.config import ModelConfig
from gainrl_ray.errors import ModelError
from gainrl_ray.model.loading import brief, model_folder

_WEIGHT_PATTERNS = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin", "pytorch_model*.bin.index.json")
_CHUNK_BYTES = 1 << 22


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


def _hub_commit(config: ModelConfig) -> str:
    """The commit that a hub name resolves to, from the hub or from the local cache when the hub is out of reach."""
    from huggingface_hub import snapshot_download

    try:
        snapshot = snapshot_download(config.path, revision=config.revision, allow_patterns=["config.json"])
    except Exception as error:
        raise ModelError(
            f"model.path {config.path!r} is neither 'tiny', nor a folder, nor a hub model that can be reached "
            f"({brief(error)})"
        ) from error
    return Path(snapshot).name


def _chunks(path: Path) -> Iterator[bytes]:
    """The file's bytes, piece by piece."""
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            yield chunk
