"""Shared sessions: one local Ray and one tiny model for the whole suite."""

import os
from collections.abc import Iterator

os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")  # listen on loopback only
os.environ.pop("RAY_ADDRESS", None)
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import pytest
from whole_runs import Finished, run, settings

from gainrl_ray.config import ModelConfig, RayConfig


@pytest.fixture(scope="session")
def ray_session() -> Iterator[None]:
    """A local Ray with 8 logical CPUs, so that placement never depends on the machine."""
    from gainrl_ray.actors.session import session

    with session(RayConfig(address="local", num_cpus=8, object_store_gib=0.5)):
        yield


@pytest.fixture(scope="session")
def tiny_model_config() -> ModelConfig:
    """The built-in model in float32."""
    return ModelConfig(path="tiny", dtype="float32")


@pytest.fixture(scope="session")
def whole(ray_session: None, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """An undisturbed run of four steps, which others are compared with."""
    return run(settings(tmp_path_factory.mktemp("runs"), report={"every": 0}), "whole")


@pytest.fixture(scope="module")
def prompts(config):
    """The prompt builder of the module's `config`."""
    from gainrl_ray.data.prompts import PromptBuilder
    from gainrl_ray.model.loading import load_tokenizer

    return PromptBuilder(load_tokenizer(config.model), config.data.prompt)


@pytest.fixture(scope="module")
def table(config, prompts):
    """The training problems of the module's `config`, prepared in its storage."""
    from gainrl_ray.data.problems import prepare_problems
    from gainrl_ray.storage import Storage

    storage = Storage(config.run.storage)
    return prepare_problems(config.data.train, prompts=prompts, on_bad_row="error", storage=storage)
