"""The policy as a DeepSpeed engine: one step's batch in, updated weights out."""

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gainrl_ray.actors import turns, zero_state
from gainrl_ray.actors.deepspeed_config import (
    deepspeed_config,
    learning_rate,
    reference_config,
    start_deepspeed,
    start_engine,
)
from gainrl_ray.algo.losses import policy_loss
from gainrl_ray.config import Config
from gainrl_ray.curricula.registry import strategy_class
from gainrl_ray.errors import ModelError
from gainrl_ray.model.device import device_type
from gainrl_ray.model.liger import fuse
from gainrl_ray.model.loading import check_model, load_model
from gainrl_ray.model.lora import WithoutAdapters, adapter_sources, load_trained, merged_sources
from gainrl_ray.model.policy import Angles, PolicyModel, PolicyOutput, forward_micro_batch
from gainrl_ray.model.prefill import signal_module
from gainrl_ray.model.probing import probe
from gainrl_ray.types import MicroBatch, RankBatch, UpdateReport

_SUMS = ("loss", "tokens", "kl", "clipped", "importance", "mismatch", "entropy")


@dataclass(frozen=True, slots=True)
class _Tally:
    """One optimizer update over all ranks; when it was skipped only `applied` and `learning_rate` mean anything."""

    sums: dict[str, float]  # the loss, and sums over trained tokens: see `policy_loss`
    applied: bool
    grad_norm: float
    learning_rate: float


class PolicyEngine:
    """The trained policy on one learner rank; every method is collective and called by all ranks alike.

    The loss of an update is a plain sum over ranks and micro-batches (types.MicroBatch). DeepSpeed averages
    gradients over ranks, so each rank's loss is multiplied by their number.
    """

    def __init__(self, config: Config, *, rank: int, world_size: int) -> None:
        """Load the model, and the frozen reference policy when loss.kl_coef > 0, and start DeepSpeed.

        Raises ModelError for what cannot be loaded, and for a model without signal layer under a curriculum that
        needs the angles. Under another curriculum such a model is trained, and no angles are reported.
        """
        learner = config.learner
        device = device_type(learner.gpus_per_worker, "learner.gpus_per_worker")
        if device == "cpu":
            torch.set_num_threads(learner.threads_per_worker)
            config = config.model_copy(update={"model": config.model.on_cpu})
        self._config, self._rank, self._world_size = config, rank, world_size
        self._temperature = config.rollout.temperature
        self._tokenizer = check_model(config.model)
        deepspeed = start_deepspeed(device, rank=rank, ranks=world_size, deadline_s=learner.collective_deadline_s)
        self._policy = PolicyModel(load_trained(config), learner.gradient_checkpointing)
        self.lines = self._policy.lines  # by which batches are made
        self._facts = zero_state.checkpoint_facts(config, world_size)
        self._measures = _measures_angles(self._policy.language_model, config)
        trained = [weight for weight in self._policy.parameters() if weight.requires_grad]
        published = adapter_sources if config.lora.sends_adapters else merged_sources
        self.weight_bytes = sum(source.size for source in published(self._policy.language_model))
        """Size of one version of the weights."""
        settings = deepspeed_config(config, ranks=world_size, parameters=sum(weight.numel() for weight in trained))
        self._engine = start_engine(deepspeed, model=self._policy, model_parameters=trained, config=settings)
        if learner.zero_stage == 0 and config.model.dtype == "bfloat16":
            # DeepSpeed has taken a step with zero gradients, which Adam's bias correction would count.
            self._engine.basic_optimizer.state.clear()
        self._engine.train()
        self._reference: Any = self._start_reference(deepspeed, settings) if config.loss.kl_coef > 0 else None
        if learner.liger:  # last: models are tried out on the CPU
            for policy in {self._policy, getattr(self._reference, "module", self._reference)} - {None}:
                fuse(policy.language_model)

    def update(self, batch: RankBatch) -> UpdateReport:
        """What this rank saw while training one step; means are over all ranks, angles are this rank's.

        Angles are those of the policy before the step. An update with a non-finite loss or gradient on any rank is
        left out on all ranks, and counted. Without updates the weights stay as they are.
        """
        started = time.monotonic()
        angles: dict[int, float] = {}
        for micro_batch in batch.measure if self._measures else ():
            self._keep_angles(self._evaluate(micro_batch, prompt_only=True).angles, angles)
        old_logprobs = self._old_logprobs(batch.updates, angles) if len(batch.updates) > 1 else None
        tallies = []
        for number, micro_batches in enumerate(batch.updates):
            self._set_learning_rate(batch.step, number)
            old = None if old_logprobs is None else old_logprobs[number]
            tallies.append(self._optimize(micro_batches, old, angles))
        return self._report(tallies, angles, time.monotonic() - started)

    def probe(self, token_ids: Sequence[int]) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
        """As model.probing.probe, of the present weights."""
        return probe(self._no_grad, self._policy, token_ids)

    def named_weights(self, *, on_host: bool = True) -> Iterator[tuple[str, Tensor]]:
        """(Hugging Face name, full tensor) of what engines get, on rank 0; nothing elsewhere.

        That is every weight with adapters merged in, or the adapters' factors alone, as lora.sync says; on the CPU,
        or without `on_host` where the weights are. Every rank must exhaust the iterator: ZeRO-3 gathers from all of
        them, bucket by bucket.
        """
        gathered = zero_state.gathered_adapters if self._config.lora.sends_adapters else zero_state.gathered_weights
        return gathered(self._policy.language_model, rank=self._rank, on_host=on_host)

    def rest(self) -> None:
        """Leave the device to others until `resume`; weights can be read, saved and exported meanwhile.

        Returns when all ranks have left theirs: one alone may say so, and engines wake up on all of them.
        """
        turns.rest(self._engine, self._reference)
        torch.distributed.barrier()

    def resume(self) -> None:
        """Take the device again, before an update or a probe."""
        turns.resume(self._engine, self._reference)

    def save(self, folder: str | Path) -> None:
        """Write this rank's shards of weights and optimizer into `folder` (one folder for all, or each its own,
        merged afterwards)."""
        zero_state.save_shards(self._engine, Path(folder), self._facts)

    def load(self, folder: str | Path) -> None:
        """Continue exactly from what `save` wrote; for an engine that has not trained yet.

        Raises DataError for a folder without a whole checkpoint, ConfigError for one made by another number of
        ranks, ZeRO stage or dtype.
        """
        zero_state.load_shards(self._engine, Path(folder), self._facts)

    def export(self, folder: str | Path) -> None:
        """Write the policy as a Hugging Face folder that transformers and vLLM load."""
        model, parts = self._policy.language_model, self._config.lora.export_parts
        zero_state.export_folder(model, self._tokenizer, Path(folder), rank=self._rank, parts=parts)

    def _start_reference(self, deepspeed: Any, settings: dict[str, Any]) -> Any:
        """The frozen start policy, as a callable: the policy without its adapters; without any, a model of its own,
        sharded under ZeRO-3, else a replica on each rank."""
        if self._config.lora.rank:
            return WithoutAdapters(self._engine, self._policy)
        loaded = load_model(self._config.model, sequence_tokens=self._config.sequence_tokens)
        model = PolicyModel(loaded).requires_grad_(False).eval()
        if self._config.learner.zero_stage < 3:
            return model.to(self._engine.device)
        return start_engine(deepspeed, model=model, config=reference_config(settings))

    @torch.no_grad()
    def _no_grad(self, *arguments: Any, **inputs: Any) -> tuple[Tensor, Tensor]:
        return self._engine(*arguments, **inputs)

    def _evaluate(self, micro_batch: MicroBatch, *, prompt_only: bool = False) -> PolicyOutput:
        """The policy's output with its angles, without a gradient."""
        return forward_micro_batch(
            self._no_grad,
            self._policy,
            micro_batch,
            temperature=self._temperature,
            measure=self._measures,
            prompt_only=prompt_only,
        )

    def _old_logprobs(
        self, updates: tuple[tuple[MicroBatch, ...], ...], angles: dict[int, float]
    ) -> list[list[Tensor]]:
        """Log-probabilities of every micro-batch under the policy before the step's first update."""
        found: list[list[Tensor]] = []
        for micro_batches in updates:
            outputs = [self._evaluate(micro_batch) for micro_batch in micro_batches]
            for output in outputs:
                self._keep_angles(output.angles, angles)
            found.append([output.logprobs for output in outputs])
        return found

    def _set_learning_rate(self, step: int, number: int) -> None:
        """The rate depends on the place in the run alone: not on updates that were skipped or had nothing to learn."""
        per_step = self._config.learner.updates_per_step
        total = self._config.run.steps * per_step
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = learning_rate(step * per_step + number, self._config.optimizer, total)

    def _optimize(
        self, micro_batches: tuple[MicroBatch, ...], old_logprobs: list[Tensor] | None, angles: dict[int, float]
    ) -> _Tally:
        """One optimizer update; without old_logprobs the policy is its own old policy, and angles are measured."""
        learning_rate = self._engine.get_lr()[0]
        sums = torch.zeros(len(_SUMS), dtype=torch.float64, device=self._engine.device)
        for number, micro_batch in enumerate(micro_batches):
            is_last = number == len(micro_batches) - 1
            self._engine.set_gradient_accumulation_boundary(is_last)
            old = None if old_logprobs is None else old_logprobs[number]
            loss, added = self._loss(micro_batch, old, angles)
            sums += added
            if is_last:
                # Known to all before the last backward pass, so that all skip: DeepSpeed leaves out an update whose
                # gradient is not finite, and this makes it so on every rank.
                torch.distributed.all_reduce(sums)
                loss = loss if bool(sums[0].isfinite()) else loss * math.nan
            self._engine.backward(loss * self._world_size, scale_wrt_gas=False)
        applied, grad_norm = self._apply()
        return _Tally(dict(zip(_SUMS, sums.tolist(), strict=True)), applied, grad_norm, learning_rate)

    def _loss(
        self, micro_batch: MicroBatch, old_logprobs: Tensor | None, angles: dict[int, float]
    ) -> tuple[Tensor, Tensor]:
        """The loss of a micro-batch, with its graph, and what it adds to the sums named in _SUMS."""
        reference = None if self._reference is None else self._reference_logprobs(micro_batch)
        output = forward_micro_batch(
            self._engine,
            self._policy,
            micro_batch,
            temperature=self._temperature,
            measure=self._measures and old_logprobs is None,
        )
        self._keep_angles(output.angles, angles)
        terms = policy_loss(
            logprobs=output.logprobs,
            old_logprobs=output.logprobs.detach() if old_logprobs is None else old_logprobs,
            ref_logprobs=reference,
            config=self._config.loss,
            **{
                name: torch.from_numpy(getattr(micro_batch, name)).to(output.logprobs.device)
                for name in ("generator_logprobs", "advantages", "response_mask", "token_weights")
            },
        )
        sums = {**terms.sums, "loss": terms.loss.detach().double(), "entropy": output.entropy.double().sum()}
        return terms.loss, torch.stack([sums[name] for name in _SUMS])

    @torch.no_grad()
    def _reference_logprobs(self, micro_batch: MicroBatch) -> Tensor:
        policy = getattr(self._reference, "module", self._reference)
        return forward_micro_batch(
            self._reference, policy, micro_batch, temperature=self._temperature, measure=False
        ).logprobs

    def _apply(self) -> tuple[bool, float]:
        """Take the optimizer step: whether it was applied, and the gradient's norm before clipping."""
        engine = self._engine
        if engine.zero_optimization() or engine.bfloat16_enabled():
            engine.step()
            return engine.was_step_applied(), float(engine.get_global_grad_norm())
        # A plain torch optimizer would apply whatever it is given. Gradients are averaged, so ranks agree.
        gradients = [weight.grad for weight in self._policy.parameters() if weight.grad is not None]
        grad_norm = float(torch.nn.utils.get_total_norm(gradients))
        if not math.isfinite(grad_norm):
            engine.zero_grad()
            return False, grad_norm
        engine.step()
        return True, grad_norm

    def _keep_angles(self, measured: Angles | None, angles: dict[int, float]) -> None:
        """Add the angle concentration of each slot, as the scored index counts it."""
        if measured is not None:
            angles.update(measured.by_slot(diagonal=self._config.scoring.diagonal))

    def _report(self, tallies: list[_Tally], angles: dict[int, float], seconds: float) -> UpdateReport:
        applied = [tally for tally in tallies if tally.applied]
        total = {name: sum(tally.sums[name] for tally in applied) for name in _SUMS}
        tokens, updates = max(total["tokens"], 1.0), max(len(applied), 1)
        return UpdateReport(
            loss=total["loss"] / updates,
            kl=None if self._reference is None else total["kl"] / tokens,
            clip_fraction=total["clipped"] / tokens,
            entropy=total["entropy"] / tokens,
            importance_mean=total["importance"] / tokens if applied else 1.0,
            mismatch_kl=total["mismatch"] / tokens,
            grad_norm=sum(tally.grad_norm for tally in applied) / updates,
            learning_rate=tallies[-1].learning_rate if tallies else self._engine.get_lr()[0],
            skipped_updates=len(tallies) - len(applied),
            trained_tokens=int(total["tokens"]),
            angles=angles,
            seconds={"train": seconds},
        )


def _measures_angles(model: Any, config: Config) -> bool:
    """Whether the model has a signal layer. Raises ModelError when it has none and the curriculum needs it."""
    try:
        signal_module(model)
    except ModelError:
        if strategy_class(config.curriculum).wants_angle:
            raise
        return False
    return True
