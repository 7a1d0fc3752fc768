"""Bytes that a learner rank and a GPU of an engine hold, part by part, and whether they fit."""

from dataclasses import dataclass

from gainrl_ray.config import Config, LearnerConfig
from gainrl_ray.planning.cluster import GIB, Cluster
from gainrl_ray.planning.shape import ModelShape

CONTEXT_BYTES = 2 * GIB
"""CUDA context, NCCL's buffers and the allocator's gaps on one GPU (assumed)."""
BUCKET_VALUES, LIVE_VALUES = 5 * 10**8, 10**9
"""DeepSpeed's reduce_bucket_size, as actors/deepspeed_config.py sets it, and its default stage3_max_live_parameters."""
CHUNK_VALUES = 1 << 26
"""model/policy.py's LOGITS_OF_A_CHUNK."""
CHUNK_COPIES = 5
"""Float32 copies of a chunk of logits alive in its forward and backward pass: scaled, log-probabilities, their
exponential and product, gradient."""
GRAPH_BYTES = 1 * GIB
"""vLLM's captured CUDA graphs (assumed)."""
BATCHED_TOKENS = 8192
"""Tokens of one pass that vLLM tries out when it starts, to learn what its activations need (its GPU default)."""


@dataclass(frozen=True, slots=True)
class Memory:
    """What one process holds; `peak` is `held` and the larger of what training and the optimizer's step add."""

    held: dict[str, float]  # bytes on the device all the time
    training: dict[str, float]  # bytes on the device in a forward and backward pass
    stepping: dict[str, float]  # bytes on the device in the optimizer's step
    host: float  # bytes in the host's memory

    @property
    def peak(self) -> float:
        """Most bytes on the device at a time."""
        return sum(self.held.values()) + max(sum(self.training.values()), sum(self.stepping.values()))


@dataclass(frozen=True, slots=True)
class EngineMemory:
    """One GPU of an engine."""

    weights: float  # bytes
    working: float  # bytes of activations, graphs and context
    cache: float  # bytes left for keys and values; negative when weights and activations do not fit
    token: float  # bytes of keys and values of one token
    longest: int  # tokens of the longest sequence

    @property
    def cached_tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return max(0, int(self.cache // self.token))

    @property
    def fits(self) -> bool:
        """Whether vLLM starts: one sequence of full length has room."""
        return self.cached_tokens >= self.longest


def learner_memory(shape: ModelShape, config: Config, *, ranks: int, on_gpu: bool) -> Memory:
    """What a learner rank of `ranks` holds under config.learner (ZeRO stage, offload, checkpointing).

    Sizes are those of DeepSpeed 0.19.8 with torch's fused AdamW: `runtime/zero/stage_1_and_2.py`, `stage3.py`,
    `bf16_optimizer.py` (stage 1 in bfloat16), `fp16/unfused_optimizer.py` (stage 0 in bfloat16).
    """
    learner = config.learner
    width = 2 if config.model.dtype == "bfloat16" else 4
    count, stage = shape.parameters, learner.zero_stage
    share = count / ranks if stage > 0 else count
    on_host = learner.offload_optimizer == "cpu"
    held = {"parameters": width * (share if stage == 3 else count)}
    kept, training = _gradients(stage, width, count, share, on_host=on_host)
    held |= kept
    stepping = dict(training)
    # AdamW's two moments, and a float32 copy of what it updates; plain AdamW on float32 weights needs none.
    states = (8 if stage == 0 and width == 4 else 12) * share
    host = 0.0
    if on_host:
        # The gradient's part in float32, and below stage 3 a buffer for the new parameters.
        host += states + 4 * share + (width * share if stage < 3 else 0.0)
    else:
        held["optimizer"] = states
        if stage == 3 or (width == 4 and stage > 0) or (width == 2 and stage == 0):
            stepping["step"] = 4 * share  # the gradient in one piece; fused AdamW itself needs nothing
    if stage == 3 and learner.offload_params == "cpu":
        host += held.pop("parameters")
    bucket = width * min(BUCKET_VALUES, count)
    if stage == 2:
        training["buckets"] = bucket * (2 if on_gpu else 1)  # two where communication overlaps
    if stage == 3:
        held["buckets"] = bucket
        training["gathered"] = width * min(LIVE_VALUES, count)
    if config.loss.kl_coef > 0:
        reference = width * (share if stage == 3 else count)
        if stage == 3 and learner.offload_params == "cpu":
            host += reference
        else:
            held["reference"] = reference
    training["activations"] = activation_bytes(shape, learner, width)
    training["logits"] = _logit_bytes(shape, learner, width)
    if on_gpu:
        held["context"] = CONTEXT_BYTES
        if config.rollout.colocated:
            held["sleeping engine"] = CONTEXT_BYTES + GRAPH_BYTES * (not config.rollout.enforce_eager)
    return Memory(held=held, training=training, stepping=stepping, host=host)


def _gradients(
    stage: int, width: int, count: float, share: float, *, on_host: bool
) -> tuple[dict[str, float], dict[str, float]]:
    """Gradients on the device: what is kept from step to step, and what the last backward pass leaves beside it.

    Stage 0: in the model's dtype. Stage 1: likewise, and in bfloat16 a whole float32 sum beside them. Stages 2 and 3
    have this rank's part in float32; stage 2 in float32 holds the sum and what is added to it.
    """
    if stage == 0:
        return {}, {"gradients": width * count}
    if stage == 1 and width == 4:
        return {}, {"gradients": 4 * count}
    if stage == 1:
        return {"gradient sum": 4 * count}, {"gradients": width * count}
    if on_host:
        return {}, {}
    if stage == 2:
        return {}, {"gradients": 4 * share * (2 if width == 4 else 1)}
    return {"gradient sum": 4 * share}, {}


def activation_bytes(shape: ModelShape, learner: LearnerConfig, width: int) -> float:
    """Bytes kept for the backward pass of a micro-batch of learner.microbatch_tokens.

    What transformers' Llama-family layer saves: the inputs of two norms in float32 and their outputs, queries, keys
    and values repeated to all heads, the attention's output twice, four of the feed-forward width, two root means and
    a normaliser a head. With checkpointing each layer keeps its input, and one layer at a time all of it.
    """
    hidden, wide = shape.hidden, shape.heads * shape.head_size
    layer = 2 * hidden * (4 + width) + width * (5 * wide + 4 * shape.intermediate) + 8 + 4 * shape.heads
    lines = max(1, learner.microbatch_tokens // max(1, learner.pack_tokens))
    mask = lines * max(1, learner.pack_tokens) ** 2 * (1 + width) if learner.pack_tokens else 0
    if learner.gradient_checkpointing:
        return learner.microbatch_tokens * (shape.layers * width * hidden + layer) + mask
    return learner.microbatch_tokens * shape.layers * layer + mask


def _logit_bytes(shape: ModelShape, learner: LearnerConfig, width: int) -> float:
    values = min(CHUNK_VALUES, learner.microbatch_tokens * shape.vocabulary)
    return values * (width + 4 * CHUNK_COPIES)


def engine_memory(shape: ModelShape, config: Config, cluster: Cluster, *, tensor_parallel: int) -> EngineMemory:
    """What one GPU of an engine holds; on CPU the cache is rollout.kv_cache_gib."""
    rollout = config.rollout
    width = 2 if config.model.dtype == "bfloat16" else 4
    weights = width * shape.parameters / tensor_parallel
    token = float(width * shape.kv_values(tensor_parallel))
    if not cluster.device.is_gpu:
        cache = rollout.kv_cache_gib * GIB
        return EngineMemory(weights, 0.0, cache, token, config.sequence_tokens)
    layer = width * (4 * shape.hidden + 3 * shape.intermediate // tensor_parallel)
    logits = rollout.max_num_seqs * shape.vocabulary * (width + 8)
    working = max(BATCHED_TOKENS, rollout.max_num_seqs) * layer + logits + GRAPH_BYTES * (not rollout.enforce_eager)
    cache = rollout.gpu_memory_utilization * cluster.memory - weights - working - CONTEXT_BYTES
    return EngineMemory(weights, working + CONTEXT_BYTES, cache, token, config.sequence_tokens)
