"""Engines that serve a model folder, for evaluation without training."""

import ray
import torch

from gainrl_ray.actors.generation import Generator
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.transport import StoreSender
from gainrl_ray.actors.weights import Probe, WeightStoreActor
from gainrl_ray.config import Config, LoraConfig
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.model.loading import load_model, named_as_on_disk


def evaluate_model(config: Config, heldout: ProblemTable) -> dict[str, float]:
    """The held-out figures of `config.model`, see Generator.evaluate.

    The weights reach the engines by the way that training uses, and are verified there.
    """
    config = config.model_copy(update={"lora": LoraConfig()})  # the folder's weights are whole
    store = WeightStoreActor.remote()
    generator = Generator(config, RolloutPool(config))
    generator.use_store(store)
    try:
        _publish(config, Remote(store, "weight store", config.sync.deadline_s), heldout.prompt(0).token_ids)
        generator.start()
        generator.sync(0)
        return generator.evaluate(heldout, 0)
    finally:
        generator.close()
        ray.kill(store)


def _publish(config: Config, store: Remote, probe_tokens: tuple[int, ...]) -> None:
    """Bring the model's weights into the store as version 0, with a probe to verify the engines by."""
    model = load_model(config.model)
    weights = (part for name, tensor in model.named_parameters() for part in named_as_on_disk(model, name, tensor))
    ids = torch.tensor([probe_tokens])
    with torch.no_grad():
        logprobs = model(ids).logits[0, :-1].float().log_softmax(dim=-1).gather(1, ids[0, 1:, None])[:, 0]
    sync = config.sync
    sender = StoreSender(store, bucket_bytes=int(sync.bucket_mib * 2**20), deadline_s=sync.deadline_s)
    sender.send(0, 0, weights, Probe(token_ids=probe_tokens, logprobs=(0.0, *logprobs.tolist())))
