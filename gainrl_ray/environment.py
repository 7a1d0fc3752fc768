"""What the process's environment variables say; read once, at the edge."""

import os
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings


def _user_cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")) / "gainrl-ray"


class Environment(BaseSettings):
    """The variables that gainrl-ray reads."""

    caller_dir: Path = Field(default_factory=Path.cwd, validation_alias="GAINRL_CALLER_DIR")
    """Folder that relative paths start from: Ray runs a submitted job in a copy of the working directory."""
    ray_address: str | None = Field(default=None, validation_alias="RAY_ADDRESS")
    """The cluster of the submitted job, or the one the user named; `ray.address` goes before it."""
    cache_dir: Path = Field(default_factory=_user_cache, validation_alias="GAINRL_CACHE_DIR")
    """Folder of what is fetched once and used again: named models, other projects' packages for benchmarks."""
