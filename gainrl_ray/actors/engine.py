"""A vLLM engine that serves one policy version at a time, driven step by step by its owner."""

import math
import os
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

from gainrl_ray.actors.broadcast import Broadcast, Place
from gainrl_ray.actors.buckets import AnnouncedBucket, WeightBucket
from gainrl_ray.actors.contents import Contents
from gainrl_ray.actors.mismatch import FirstLook
from gainrl_ray.actors.sync_figures import SyncFigures
from gainrl_ray.actors.vllm_adapter import AdapterSlot
from gainrl_ray.actors.vllm_setup import build_engine, environment, log_to, runs_in_process
from gainrl_ray.actors.weights import Probe
from gainrl_ray.algo.agreement import Agreement, agreement
from gainrl_ray.config import LoraConfig, ModelConfig, RolloutConfig
from gainrl_ray.errors import EngineError, GainrlError, WeightSyncError
from gainrl_ray.model.loading import ids_without_token
from gainrl_ray.types import Completion, SampleRequest

PROBE_ID = "gainrl-probe"
PROBE_DEADLINE_S = 300.0
Bucket = WeightBucket | AnnouncedBucket
WEIGHTS, KV_CACHE = "weights", "kv_cache"


class EngineState(StrEnum):
    """Where an engine stands; it serves only what it has confirmed."""

    STARTING = "starting"
    ASLEEP = "asleep"
    STALE = "stale"
    SERVING = "serving"
    SUSPECT = "suspect"
    DEAD = "dead"


class RolloutEngine:
    """vLLM's LLMEngine with versions; not thread-safe, one thread owns it."""

    def __init__(
        self,
        *,
        model: ModelConfig,
        rollout: RolloutConfig,
        tolerance: float | None,
        max_model_len: int,
        log_file: Path,
        in_process: bool | None = None,
        lora: LoraConfig | None = None,
    ) -> None:
        """Starts the engine with the model folder's own weights, state stale.

        With a `lora` that sends adapters those weights stay, and the buckets of a sync hold an adapter.
        `tolerance`: largest allowed mean difference of a probe's log-probabilities, nats; none = what rounding
        explains. `log_file` gets all that vLLM logs. The environment must be that of `environment` before vLLM is
        first imported.
        """
        self._in_process = runs_in_process(rollout) if in_process is None else in_process
        os.environ.update(environment(rollout, in_process=self._in_process))
        log_to(log_file)
        self._tolerance, self._dtype = tolerance, model.dtype
        lora = lora or LoraConfig()
        self._engine = build_engine(model, rollout, lora, max_model_len, self._in_process)
        self._adapter = AdapterSlot(self._engine, lora) if lora.sends_adapters else None
        init_info = {"unused_ids": list(ids_without_token(model))}
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": init_info})
        self.state = EngineState.STALE
        self.version: int | None = None
        self._internal: dict[str, str] = {}
        self._sleeping: set[str] = set()  # parts without memory, by vLLM's names
        self._first_look = FirstLook()

    # -- generation ----------------------------------------------------------------------------------------------

    def submit(self, requests: Sequence[SampleRequest], version: int) -> None:
        """Queue requests for policy `version`. Raises EngineError when the engine does not serve that version."""
        if self.state is not EngineState.SERVING or self.version != version:
            raise EngineError(
                f"completions of policy version {version} were asked of an engine that is {self.state} with version "
                f"{self.version}: sync it first"
            )
        for request in requests:
            if request.request_id in self._internal:
                raise EngineError(f"request {request.request_id!r} is already under way")
            self._internal[request.request_id] = self._add(request.request_id, request.token_ids, _params(request))

    def step(self) -> list[tuple[str, Completion]]:
        """The (request id, completion) pairs that one decode step finished; empty without work."""
        if not self._internal:
            return []
        finished = []
        for output in self._engine.step():
            if output.finished and self._internal.pop(output.request_id, None) is not None:
                finished.append((output.request_id, _completion(output)))
        return finished

    def abort(self) -> None:
        """Forget all requests."""
        if self._internal:
            self._engine.abort_request(list(self._internal.values()), internal=True)
            self._internal = {}

    def generate(self, requests: Sequence[SampleRequest], version: int) -> Iterator[tuple[str, Completion]]:
        """(request id, completion) as they finish, in the order of finishing."""
        self.submit(requests, version)
        while self._internal:
            yield from self.step()

    @property
    def unfinished(self) -> int:
        """Requests under way."""
        return len(self._internal)

    # -- weights -------------------------------------------------------------------------------------------------

    def sleep(self) -> None:
        """Give the memory of weights and KV cache back; the next sync takes it again and fills it anew.

        vLLM frees memory on CUDA only: a CPU engine passes through the same states and keeps its memory.

        Raises:
            EngineError: requests are under way.
        """
        if self._internal or self._engine.has_unfinished_requests():
            raise EngineError(f"sleep with {self.unfinished} requests under way: drain them first")
        self.state, self.version = EngineState.ASLEEP, None
        self._engine.sleep(level=2)  # neither weights nor cache are kept: both will be those of another policy
        self._sleeping = {WEIGHTS, KV_CACHE}

    def join(self, broadcast: Broadcast, place: Place, stall_s: float) -> None:
        """Make the workers members of a group that the learner broadcasts in. Raises WeightSyncError."""
        self.state, self.version = EngineState.STALE, None
        info = {"address": broadcast.address, "port": broadcast.port, "way": broadcast.way, "stall_s": stall_s}
        info |= place._asdict()
        self._engine.collective_rpc("init_weight_transfer_engine", kwargs={"init_info": info})

    def sync(self, version: int, buckets: Iterable[Bucket], probe: Probe | None = None) -> SyncFigures:
        """Drained engine -> new weights -> empty prefix cache -> verified -> serving `version`.

        The bytes of announced buckets come by broadcast, in the group joined last.

        Raises:
            EngineError: requests are under way, or the prefix cache could not be emptied.
            WeightSyncError: a bucket is damaged, parameters are missing or not those of the probe's contents, or
                log-probabilities differ on the probe by more than rounding explains. The engine is stale then.
        """
        if self._internal or self._engine.has_unfinished_requests():
            raise EngineError(f"sync to version {version} with {self.unfinished} requests under way: drain them first")
        self.state, self.version = EngineState.STALE, None
        # Without its adapter a policy is another one, and an engine asleep has no weights.
        self._first_look.take(self.score, None if self._sleeping or self._adapter else probe)
        self._wake(WEIGHTS)
        try:
            if self._adapter:
                pull_s, update_s, size = self._adapter.load(cast(Iterable[WeightBucket], buckets))
            else:
                pull_s, update_s, size = self._update(buckets, probe.contents if probe else ())
        except Exception as error:
            with suppress(Exception):  # closes the failed session where it is still open, so that another may begin
                self._engine.collective_rpc("finish_weight_update")
            if isinstance(error, GainrlError):
                raise
            raise WeightSyncError(f"version {version}: vLLM did not take the weights: {error}") from error
        self._wake(KV_CACHE)
        if not self._engine.reset_prefix_cache():
            raise EngineError(
                f"version {version}: vLLM did not empty its prefix cache, so keys and values of the old policy "
                "would be used again"
            )
        started = time.monotonic()
        found = self._verify(probe, version) if probe is not None else None
        verify_s = time.monotonic() - started
        self.state, self.version = EngineState.SERVING, version
        return SyncFigures(
            version=version,
            pull_s=pull_s,
            update_s=update_s,
            verify_s=verify_s,
            mean_difference=found.mean if found else math.nan,
            worst_difference=found.largest if found else math.nan,
            size=size,
        )

    def score(self, token_ids: Sequence[int]) -> tuple[float, ...]:
        """Log-probability of every token given those before, at temperature 1; 0.0 for the first.

        Always computed afresh: vLLM does not read its prefix cache for prompt log-probabilities.
        """
        from vllm import SamplingParams

        params = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        self._add(PROBE_ID, token_ids, params)
        deadline = time.monotonic() + PROBE_DEADLINE_S
        while time.monotonic() < deadline:
            for output in self._engine.step():
                if output.request_id == PROBE_ID and output.finished:
                    rest = zip(output.prompt_logprobs[1:], token_ids[1:], strict=True)
                    return (0.0, *(position[token_id].logprob for position, token_id in rest))
        raise EngineError(f"the probe of {len(token_ids)} tokens did not end within {PROBE_DEADLINE_S:.0f} s")

    def close(self) -> None:
        """End the engine and its processes."""
        self.state = EngineState.DEAD
        self._engine.engine_core.shutdown()

    # -- inside --------------------------------------------------------------------------------------------------

    def _add(self, request_id: str, token_ids: Sequence[int], params: Any) -> str:
        from vllm.inputs import tokens_input

        adapter = self._adapter.request if self._adapter else None
        return self._engine.add_request(request_id, tokens_input(list(token_ids)), params, lora_request=adapter)

    def _wake(self, part: str) -> None:
        if part in self._sleeping:
            self._engine.wake_up([part])
            self._sleeping.discard(part)

    def _update(self, buckets: Iterable[Bucket], contents: Sequence[Contents]) -> tuple[float, float, int]:
        """(seconds waiting for buckets, seconds loading them, bytes); `contents` are to be found in the engine then."""
        from gainrl_ray.actors.vllm_transfer import update_info

        begun = time.monotonic()
        pull_s, size, stream = 0.0, 0, iter(buckets)
        self._engine.collective_rpc("start_weight_update")
        if contents:
            expected = {"update_info": {"index": -1, "entries": [], "contents": [list(entry) for entry in contents]}}
            self._engine.collective_rpc("update_weights", kwargs=expected)
        while True:
            asked = time.monotonic()
            bucket = next(stream, None)
            pull_s += time.monotonic() - asked
            if bucket is None:
                break
            size += bucket.size
            with update_info(bucket, in_process=self._in_process) as info:
                self._engine.collective_rpc("update_weights", kwargs={"update_info": info})
        self._engine.collective_rpc("finish_weight_update")
        return pull_s, time.monotonic() - begun - pull_s, size

    def _verify(self, probe: Probe, version: int) -> Agreement:
        """How far the engine is from the learner's log-probabilities. Raises WeightSyncError for too far."""
        found = self.score(probe.token_ids)
        rounded = [values[1:] for values in probe.rounded]
        result = agreement(found[1:], probe.logprobs[1:], rounded, dtype=self._dtype, tolerance=self._tolerance)
        if not result.holds:
            at = 1 + result.place
            raise WeightSyncError(
                f"version {version}: over {len(found) - 1} probe tokens the engine's log-probabilities differ from the "
                f"learner's by {result.mean:.3g} nats in the mean and {result.largest:.3g} at most (token {at}, id "
                f"{probe.token_ids[at]}: {found[at]:.4f}, the learner has {probe.logprobs[at]:.4f}); allowed are "
                f"{result.allowed_mean:.3g} and {result.allowed_largest:.3g}, "
                + (f"what rounding in {self._dtype} explains" if self._tolerance is None else "sync.verify_tolerance")
                + ". "
                + self._first_look.explanation(found, probe.logprobs)
            )
        return result


def _params(request: SampleRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    sampling = request.sampling
    return SamplingParams(
        n=1,
        temperature=sampling.temperature,
        top_p=sampling.top_p,
        max_tokens=sampling.max_new_tokens,
        stop=list(sampling.stop),
        include_stop_str_in_output=True,
        seed=request.seed,
        logprobs=0,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )


def _completion(output: Any) -> Completion:
    sample = output.outputs[0]
    if sample.finish_reason not in ("stop", "length"):
        raise EngineError(f"request {output.request_id!r} ended as {sample.finish_reason!r}, not by stop or length")
    logprobs = tuple(at[token_id].logprob for at, token_id in zip(sample.logprobs, sample.token_ids, strict=True))
    return Completion(
        token_ids=tuple(sample.token_ids), logprobs=logprobs, finish_reason=sample.finish_reason, text=sample.text
    )
