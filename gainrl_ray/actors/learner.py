"""The train function of every learner rank: the GRPO loop around a DeepSpeed engine, under Ray Train."""

import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray
import ray.train
import torch
import torch.distributed as dist
from ray.actor import ActorHandle
from torch import Tensor

from gainrl_ray.actors.broadcast import Receivers, stall_s, way
from gainrl_ray.actors.contents import contents
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.transport import BroadcastSender, StoreSender
from gainrl_ray.actors.weight_group import prepare
from gainrl_ray.actors.weights import Probe
from gainrl_ray.actors.zero import PolicyEngine
from gainrl_ray.checkpoint import RunState, commit_due
from gainrl_ray.config import Config
from gainrl_ray.errors import GainrlError, StaleAttemptError
from gainrl_ray.storage import Storage
from gainrl_ray.types import RankBatch, UpdateReport

MODEL_FOLDER = "model"
BEST_FOLDER = "best"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerTask:
    """What a learner rank needs beside its rank."""

    config: Config
    run_name: str
    pipeline: ActorHandle
    probe_tokens: tuple[int, ...]


def train_loop(task: LearnerTask) -> None:
    """Train until the last step or a stop; an error that a restart would not cure ends the run."""
    try:
        _Learner(task).run()
    except StaleAttemptError:
        raise  # a newer gang is at work
    except GainrlError as error:
        Remote(task.pipeline, "pipeline", 60.0).report_failure(str(error))


class _Learner:
    def __init__(self, task: LearnerTask) -> None:
        self._task, self._config = task, task.config
        self._pipeline = Remote(task.pipeline, "pipeline", self._limit_s() + 60)  # its own deadlines come first
        context = ray.train.get_context()
        self._rank, self._ranks = context.get_world_rank(), context.get_world_size()
        self._takes_turns = self._config.rollout.colocated
        if self._takes_turns:
            self._pipeline.make_room()
        self._policy = PolicyEngine(self._config, rank=self._rank, world_size=self._ranks)
        self._sender = self._open_sender() if self._rank == 0 else None
        self._lost: dict[str, str] = {}  # exports that failed, with what kept them
        self._broadcaster = self._open_broadcaster() if self._rank == 0 and self._config.fast_sync else None

    def run(self) -> None:
        state = self._begin(self._restore())
        begun, every = state.step, self._config.sync.verify_every
        self._publish(begun, state.attempt, verify=every > 0)
        while state.step < self._config.run.steps and not state.stopped:
            batch, wait_s = self._take(state)
            if self._takes_turns:
                self._policy.resume()
            report = self._policy.update(batch)
            is_first_broadcast = self._config.fast_sync is not None and state.step == begun
            verify = every > 0 and ((state.step + 1) % every == 0 or is_first_broadcast)
            published = self._publish(state.step + 1, state.attempt, verify=verify)
            report = replace(report, seconds={**report.seconds, **published, "take": wait_s})
            state = self._complete(state, report)
            self._commit(state)
        self._export(MODEL_FOLDER, state.step)
        if self._lost:
            raise GainrlError(self._account_of_loss(state))

    def _open_sender(self) -> StoreSender:
        """The way into the weight store, which is near this rank."""
        node_id, sync = ray.get_runtime_context().get_node_id(), self._config.sync
        handle = self._pipeline.weight_store(node_id, self._policy.weight_bytes)
        store = Remote(handle, "weight store", sync.deadline_s)
        return StoreSender(store, bucket_bytes=int(sync.bucket_mib * 2**20), deadline_s=sync.deadline_s)

    def _open_broadcaster(self) -> BroadcastSender:
        chosen = way(self._config)
        on_gpu = chosen == "nccl" or (chosen == "ipc" and self._config.learner.on_gpu)
        device = torch.device("cuda", torch.cuda.current_device()) if on_gpu else torch.device("cpu")
        prepare(chosen)
        return BroadcastSender(ray.util.get_node_ip_address(), device, chosen, stall_s(self._config))

    def _restore(self) -> RunState | None:
        """The committed state, with the learner's shards loaded; None at the beginning of a run."""
        checkpoint = ray.train.get_checkpoint()
        if checkpoint is None:
            return None
        with checkpoint.as_directory() as folder:
            self._policy.load(folder)
            return RunState.load(Path(folder))

    def _begin(self, state: RunState | None) -> RunState:
        """The state to go on from under a new attempt, equal on all ranks."""
        answer = [self._pipeline.reset(state, self._policy.lines) if self._rank == 0 else None]
        if self._ranks > 1:
            dist.broadcast_object_list(answer, src=0)
        assert answer[0] is not None
        return answer[0]

    def _take(self, state: RunState) -> tuple[RankBatch, float]:
        started = time.monotonic()
        batch = self._pipeline.take(state.step, self._rank, state.attempt, self._limit_s())
        return batch, time.monotonic() - started

    def _publish(self, version: int, attempt: int, *, verify: bool) -> dict[str, float]:
        """Bring the weights of `version` to the engines, with a probe to verify, and into the store, bucket by bucket.

        Returns the seconds that engines waited for (`publish`) and, where they are served by a broadcast, those that
        the store took meanwhile (`store`).
        """
        started = time.monotonic()
        probe = self._probe() if verify else None
        if self._takes_turns:  # all ranks: the engines wake up as soon as the version is known
            self._policy.rest()
        receivers = self._offer(version, attempt, probe)
        offered = time.monotonic()
        if receivers is not None:
            weights = self._policy.named_weights(on_host=False)
            if self._broadcaster is not None:
                self._broadcaster.send(receivers, weights)
            _exhaust(weights)
        weights = self._policy.named_weights()
        if self._sender is not None:
            self._sender.send(version, attempt, weights, probe)
            self._pipeline.publish(version, attempt)
        _exhaust(weights)
        ended = time.monotonic()
        if receivers is None:
            return {"publish": ended - started}
        return {"publish": offered - started, "store": ended - offered}

    def _probe(self) -> Probe:
        """What engines are compared with; the weights' contents are known to rank 0 alone, which sends it."""
        tokens = self._task.probe_tokens
        logprobs, rounded = self._policy.probe(tokens)
        held = self._policy.named_weights(on_host=False)
        found = () if self._config.lora.sends_adapters else contents(tensor for _, tensor in held)
        return Probe(token_ids=tokens, logprobs=logprobs, rounded=rounded, contents=found)

    def _offer(self, version: int, attempt: int, probe: Probe | None) -> Receivers | None:
        """The engines that take a broadcast of `version` that begins now, equal on all ranks; None for nobody."""
        if self._config.fast_sync is None:
            return None
        answer: list[Receivers | None] = [None]
        if self._broadcaster is not None and self._sender is not None:
            broadcast = self._broadcaster.announce(self._sender.layout, probe)
            if broadcast is not None:
                answer = [self._pipeline.offer(version, attempt, broadcast)]
        if self._ranks > 1:
            dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def _complete(self, state: RunState, report: UpdateReport) -> RunState:
        return self._pipeline.complete(state.step, self._rank, report, state.attempt, self._limit_s())

    def _commit(self, state: RunState) -> None:
        """Commit a checkpoint, then keep the best policy, when they are due: no export comes before a checkpoint."""
        if commit_due(state, self._config):
            with tempfile.TemporaryDirectory() as name:
                folder = Path(name)
                self._policy.save(folder)
                if self._rank == 0:
                    state.save(folder)
                checkpoint = ray.train.Checkpoint.from_directory(folder)
                ray.train.report({"step": state.step, **state.metrics}, checkpoint=checkpoint)
        if state.is_best:
            self._export(BEST_FOLDER, state.step)
        every = self._config.checkpoint.export_every
        if every and state.step % every == 0:
            self._export(f"{MODEL_FOLDER}_{state.step}", state.step)

    def _export(self, folder: str, step: int) -> None:
        """Write a Hugging Face folder of this name into the run's folder.

        One that cannot be written is told and kept in mind: training, whose checkpoints are safe, goes on.
        """
        storage = Storage(self._config.run.storage).child(self._task.run_name)
        try:
            if storage.is_local:
                self._policy.export(Path(storage.path) / folder)
            else:
                with tempfile.TemporaryDirectory(prefix="gainrl-") as name:
                    self._policy.export(Path(name) / folder)
                    if self._rank == 0:
                        storage.upload(Path(name) / folder, folder)
        except Exception as error:
            self._lost[folder] = f"{folder} of step {step} ({type(error).__name__}: {error})"
            self._pipeline.say(f"EXPORT FAILED: {self._lost[folder]}; the run goes on, its checkpoints are not touched")
        else:
            self._lost.pop(folder, None)

    def _account_of_loss(self, state: RunState) -> str:
        """What could not be exported, and how to have it still."""
        storage, checkpoint = Storage(self._config.run.storage).child(self._task.run_name), ray.train.get_checkpoint()
        kept = f"checkpoint {checkpoint.path} of step {state.step}" if checkpoint else "nothing"
        return (
            f"not exported into {storage.uri}: {'; '.join(self._lost.values())}. No training is lost: {kept} is "
            f"committed. Mend the cause, remove an older {MODEL_FOLDER} folder if there is one, and give the same "
            f"command again: it goes on from the checkpoint, and after step {self._config.run.steps} only exports "
            f"{MODEL_FOLDER}"
        )

    def _limit_s(self) -> float:
        """Longest wait for the pipeline: each of its parts at its own limit, so theirs speak first."""
        rollout, sync = self._config.rollout, self._config.sync
        return rollout.start_deadline_s + 3 * rollout.request_deadline_s + 2 * sync.deadline_s


def _exhaust(weights: Iterator[tuple[str, Tensor]]) -> None:
    """Drive a gather to its end: every rank takes part in it to the last weight."""
    for _ in weights:
        pass
