"""Whether learner and engine compute the same function, found out before a run does anything else."""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from model_families import save_family
from tolerances import rounding, roundings_in

from gainrl_ray.actors import model_check
from gainrl_ray.actors.function_trial import Found, Trial, longest
from gainrl_ray.actors.model_check import same_function
from gainrl_ray.actors.vllm_setup import environment
from gainrl_ray.config import Config, ModelConfig
from gainrl_ray.errors import DataError, ModelError
from gainrl_ray.model.loading import load_model

LIMIT_S = 300.0


def settings(folder: Path, *, tokens: int = 200, dtype: str = "bfloat16", **sections: dict[str, Any]) -> Config:
    """Of a run whose sequences have up to `tokens` tokens."""
    tree: dict[str, Any] = {
        "model": {"path": str(folder), "dtype": dtype},
        "data": {"prompt": {"max_tokens": 100}},
        "rollout": {
            "kv_cache_gib": 0.1,
            "max_num_seqs": 8,
            "max_new_tokens": tokens - 100,
            "start_deadline_s": LIMIT_S,
        },
    }
    return Config.model_validate({**tree, **sections})


class Disturbed(Trial):
    """A trial in whose process something is wrong."""

    def without_caps(self, config: Config) -> Found:
        """The learner computes with the attention that was asked for, whatever that leaves out."""
        from gainrl_ray.model import loading

        chosen, loading.attention = loading.attention, lambda model: model.attention
        try:
            return self.run(config)
        finally:
            loading.attention = chosen

    def without_experts(self, config: Config) -> Found:
        """A sync leaves the experts as they were."""
        from gainrl_ray.actors import vllm_transfer

        engine = vllm_transfer.ObjectStoreTransferEngine
        tensors = engine._tensors

        def others(self: Any, info: Any) -> Iterator[Any]:
            return ((name, tensor) for name, tensor in tensors(self, info) if "experts" not in name)

        engine._tensors = others
        try:
            return self.run(config)
        finally:
            engine._tensors = tensors


@pytest.fixture(scope="module")
def disturbed(ray_session: None) -> Iterator[Any]:
    import ray
    from ray import cloudpickle

    cloudpickle.register_pickle_by_value(sys.modules[Disturbed.__module__])  # workers cannot import a test module
    variables = environment(settings(Path("any")).rollout, in_process=True)
    actor = ray.remote(Disturbed).options(num_cpus=0, runtime_env={"env_vars": variables}).remote()
    yield actor
    ray.kill(actor)


def refuse(*_: Any, **__: Any) -> Any:
    pytest.fail("a process was started")


def test_a_model_is_tried_once(ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GAINRL_CACHE_DIR", str(tmp_path / "cache"))
    config, lines = settings(save_family("Qwen3, tied", tmp_path / "model")), list[str]()
    with same_function(config, lines.append):
        assert not lines, "the trial goes on beside the block"
    said = re.fullmatch(
        r"model: learner and engine agree \(2 blocks with random weights, 199 tokens, float32: (\S+) nats in the mean, "
        r"(\S+) at most, \d+ s\)",
        lines[-1],
    )
    allowed = rounding(roundings_in(load_model(ModelConfig(path=config.model.path, dtype="float32"))))
    assert said and 0 < float(said[1]) < float(said[2]) < allowed
    (kept,) = (tmp_path / "cache" / "same_function").iterdir()
    assert json.loads(kept.read_text())["model"] == config.model.path
    monkeypatch.setattr(model_check.FunctionTrial, "options", refuse)
    with same_function(config, refuse):
        pass
    with pytest.raises(pytest.fail.Exception), same_function(settings(tmp_path / "model", tokens=201), refuse):
        pass


def test_what_is_not_to_be_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_check.FunctionTrial, "options", refuse)
    for config in (Config(), settings(Path("any"), sync={"verify_every": 0})):
        with same_function(config, refuse):
            pass


def test_a_difference_is_told_with_the_setting(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Cohere 2's windows are a token wider in vLLM; `check_positions` knows, which is not asked here."""
    monkeypatch.setenv("GAINRL_CACHE_DIR", str(tmp_path / "cache"))
    folder, begun = save_family("Cohere 2", tmp_path / "model"), list[bool]()
    with pytest.raises(ModelError) as raised, same_function(settings(folder, tokens=300), lambda line: None):
        begun.append(True)
    assert begun
    assert re.search(
        r"compute different functions\. Over 299 tokens .* nats in the mean and .* at most; rounding explains .*\. On "
        r"sequences of up to 1(29|3\d) tokens they agree: lower data.prompt.max_tokens \(100\) or "
        r"rollout.max_new_tokens \(200\)",
        str(raised.value),
    )
    assert not (tmp_path / "cache").exists()


def test_a_failure_of_the_block_ends_the_trial(
    ray_session: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import ray

    ended = list[Any]()
    monkeypatch.setattr(ray, "kill", lambda actor, kill=ray.kill: (ended.append(actor), kill(actor)))
    config = settings(save_family("Llama", tmp_path))
    with pytest.raises(DataError, match="no such file"), same_function(config, refuse):
        raise DataError("no such file")
    assert len(ended) == 1


def test_the_other_attention_is_named(disturbed: Any, tmp_path: Path) -> None:
    import ray

    config = settings(save_family("Gemma 2", tmp_path))
    found = ray.get(disturbed.without_caps.remote(config), timeout=LIMIT_S)
    assert found.problem.endswith("With eager attention they agree: --model.attention=eager")


def test_weights_that_are_left_out_by_a_sync_are_no_other_function(disturbed: Any, tmp_path: Path) -> None:
    import ray

    config = settings(save_family("Mixtral", tmp_path))
    found = ray.get(disturbed.without_experts.remote(config), timeout=LIMIT_S)
    said = r"its weights do not reach the engine as they are\. 4 parameters .* not sent: .*layers\.1\.\S*experts"
    assert re.match(said, found.problem)


def test_what_vllm_does_not_run_is_told(disturbed: Any, tmp_path: Path) -> None:
    import ray

    config = settings(save_family("Qwen3", tmp_path, head_dim=24), dtype="float32")
    found = ray.get(disturbed.run.remote(config), timeout=LIMIT_S)
    assert found.problem.startswith("vLLM does not run its architecture with these settings (")


def test_a_fault_of_the_learner_s_side_is_not_called_vllm_s(disturbed: Any, tmp_path: Path) -> None:
    import ray

    folder = save_family("Qwen3", tmp_path)
    (folder / "tokenizer.json").write_text("{}")
    found = ray.get(disturbed.run.remote(settings(folder)), timeout=LIMIT_S)
    assert (found.facts, found.problem) == ("", "") and "tokenizer" in found.untried


@pytest.mark.parametrize(("holds", "most", "length"), [(100, 300, 100), (299, 300, 299), (8, 300, 8), (7, 300, 0)])
def test_the_longest_on_which_they_agree(holds: int, most: int, length: int) -> None:
    asked = list[int]()

    def agrees(tokens: int) -> bool:
        asked.append(tokens)
        return tokens <= holds

    assert longest(agrees, most) == length
    assert len(asked) <= 10
    assert longest(agrees, 8) == 0, "too short to tell"
