"""The verb evaluate: accuracy of a model on the held-out problems, on the same engines as training."""

import json
import time
from collections.abc import Callable

import ray

from gainrl_ray.actors.generation import Generator
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.resources import budget, preflight
from gainrl_ray.actors.weights import Probe, WeightStoreActor, pack
from gainrl_ray.config import Config
from gainrl_ray.console import table as console_table
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.model.loading import load_model, load_tokenizer
from gainrl_ray.model.policy import sequence_logprobs
from gainrl_ray.storage import Storage

EVALUATIONS = "evaluations"


def evaluate(config: Config, name: str, say: Callable[[str], None] = print) -> dict[str, float]:
    """The held-out figures of `config.model` (see Generator.evaluate), also stored as evaluations/<name>.json.

    Ray must be connected. The weights reach the engines by the way that training uses, and are verified.

    Raises:
        GainrlError: anything that the user can mend, with what was received and what to do.
    """
    storage = Storage(config.run.storage)
    prompts = PromptBuilder(load_tokenizer(config.model), config.data.prompt)
    heldout = prepare_problems(
        config.data.heldout, prompts=prompts, on_bad_row=config.data.on_bad_row, storage=storage
    )
    say(f"held-out: {heldout.report}")
    say(preflight(budget(config)[1:], ray.cluster_resources(), config.ray.autoscaling))
    store = WeightStoreActor.remote()
    _publish(config, Remote(store, "weight store", config.sync.deadline_s), heldout.prompt(0).token_ids)
    max_model_len = config.data.prompt.max_tokens + config.rollout.max_new_tokens
    generator = Generator(config, RolloutPool(config, store, max_model_len))
    try:
        generator.start()
        generator.sync(0)
        figures = generator.evaluate(heldout, 0)
    finally:
        generator.close()
        ray.kill(store)
    record = {"model": config.model.path, "data": config.data.heldout.path, "problems": len(heldout), **figures}
    storage.child(EVALUATIONS).write_text(f"{name}.json", json.dumps(record, indent=2))
    rows = [(key.removeprefix("eval/"), f"{value:.3f}") for key, value in figures.items()]
    say("\n" + console_table([("problems", str(len(heldout))), *rows], f"{config.model.path} on held-out problems"))
    say(f"\nwritten to {storage.child(EVALUATIONS).uri}/{name}.json")
    return figures


def _publish(config: Config, store: Remote, probe_tokens: tuple[int, ...]) -> None:
    """Bring the model's weights into the store as version 0, with a probe to verify the engines by."""
    model = load_model(config.model)
    store.begin(0, 0)
    for bucket in pack(model.named_parameters(), int(config.sync.bucket_mib * 2**20)):
        store.put(0, bucket)
    store.commit(0, Probe(token_ids=probe_tokens, logprobs=sequence_logprobs(model, probe_tokens)))


def evaluation_name() -> str:
    """A name for an evaluation: the time."""
    return time.strftime("%Y%m%d-%H%M%S")
