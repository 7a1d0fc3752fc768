"""Tiny random models of many families, and a process that holds an engine and a learner's policy of one of them."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gainrl_ray.config import ModelConfig, RolloutConfig
from gainrl_ray.errors import WeightSyncError
from gainrl_ray.types import MicroBatch, SampleRequest, Sampling

ROLLOUT = RolloutConfig(max_num_seqs=8, kv_cache_gib=0.1)
TOKENS = 96  # of the compared sequence, longer than the windows and original positions below
MAX_MODEL_LEN = 256
# More rows than the tokenizer's 597 tokens: what the surplus would add to the normaliser must be left out by both.
_SIZES = {
    "vocab_size": 640,
    "hidden_size": 128,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,  # of 32: the CPU kernels know multiples of that
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
_GPT2 = {"vocab_size": 640, "n_embd": 128, "n_layer": 2, "n_head": 4, "n_positions": 512, "eos_token_id": 1}
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}
_LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 32.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
_GEMMA2 = {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}

_LONGROPE = {
    "original_max_position_embeddings": 128,  # between the compared sequence and the engine's longest
    "rope_parameters": {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0 + 0.1 * i for i in range(16)],
        "long_factor": [4.0 + 2.0 * i for i in range(16)],
    },
}
_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 64}

FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("llama", {"tie_word_embeddings": False}),
    "Llama 3.2": ("llama", {"tie_word_embeddings": True, "rope_parameters": _LLAMA3_ROPE}),
    "SmolLM2": ("llama", {"tie_word_embeddings": True, "num_key_value_heads": 4}),
    "Mistral": ("mistral", {"sliding_window": None}),
    "Mistral, windows": ("mistral", {"sliding_window": 16}),
    "Qwen2.5": ("qwen2", {"tie_word_embeddings": True}),
    "Qwen3": ("qwen3", {"head_dim": 32, "tie_word_embeddings": False}),
    "Qwen3, tied": ("qwen3", {"head_dim": 32, "tie_word_embeddings": True}),
    "Phi-3": ("phi3", {"sliding_window": None}),
    "Phi-3.5, longrope": ("phi3", {"sliding_window": None, **_LONGROPE}),
    "Llama, yarn": ("llama", {"rope_parameters": _YARN}),
    "Gemma 2": ("gemma2", {**_GEMMA2, "attn_logit_softcapping": 1.0, "final_logit_softcapping": 3.0}),
    "Gemma 3": ("gemma3_text", {"head_dim": 32, "query_pre_attn_scalar": 32, "sliding_window": 16}),
    "OLMo 2": ("olmo2", {}),
    "OLMo 3": ("olmo3", {"sliding_window": 16}),
    "SmolLM3": ("smollm3", {}),
    "GLM-4": ("glm4", {"head_dim": 32}),
    "ERNIE 4.5": ("ernie4_5", {}),
    "Gemma": ("gemma", {"head_dim": 32}),
    "Phi": ("phi", {}),
    "StarCoder2": ("starcoder2", {"sliding_window": None}),
    "StableLM": ("stablelm", {}),
    "Falcon": ("falcon", {}),
    "GPT-NeoX": ("gpt_neox", {"num_key_value_heads": 4}),
    "Granite": ("granite", {"attention_multiplier": 0.3, "embedding_multiplier": 2.0, "logits_scaling": 3.0}),
    "Cohere": ("cohere", {"logit_scale": 0.5}),
    "Cohere 2": ("cohere2", {"logit_scale": 0.5, "sliding_window": 128}),
    "GPT-2": ("gpt2", _GPT2),
    "Qwen3-MoE": ("qwen3_moe", {**_EXPERTS, "head_dim": 32, "norm_topk_prob": True}),
    "Mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": None}),
    "OLMoE": ("olmoe", {"num_experts": 4, "num_experts_per_tok": 2}),
    "Qwen2-MoE": ("qwen2_moe", {**_EXPERTS, "shared_expert_intermediate_size": 64}),
    "Granite-MoE": ("granitemoe", {"num_local_experts": 4, "num_experts_per_tok": 2}),
}


def save_family(name: str, folder: Path, **others: Any) -> Path:
    """A folder with a random model of the family, with some settings changed, and the built-in tokenizer."""
    from transformers import AutoConfig

    kind, settings = FAMILIES[name]
    sizes = {} if kind == "gpt2" else _SIZES
    return save_random(AutoConfig.for_model(kind, **{**sizes, **settings, **others}), folder)


def save_random(config: Any, folder: Path) -> Path:
    """A folder with a random model of this transformers config and the built-in tokenizer."""
    from transformers import AutoModelForCausalLM

    from gainrl_ray.model.loading import load_tokenizer

    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():  # biases start at 0 and norms at 1, in which a mistake would not show
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape))
    model.save_pretrained(folder)
    load_tokenizer(ModelConfig(path="tiny")).save_pretrained(folder)
    return folder


@dataclass
class Agreement:
    """Largest differences between engine and learner in nats, over the tokens of a sequence."""

    loaded: float  # as vLLM's own loader left the engine
    synced: dict[str, float] = field(default_factory=dict)  # after a change of one group of parameters alone
    moved: dict[str, float] = field(default_factory=dict)  # what that change did to the learner
    trained: float = 0.0  # after two steps of an optimizer
    packed: float = 0.0  # of the rows of a pack, after that


class FamilyHost:
    """Engines and policies of one process, one model after another; a Ray actor."""

    def check(self, folder: str) -> Agreement:
        """Engine and learner side by side; both train on CPU in float32."""
        config = ModelConfig(path=folder, dtype="float32")
        pair = Pair(config)
        try:
            found = Agreement(loaded=pair.difference())
            for group in pair.groups():
                before = pair.learned()
                pair.change(group)
                found.moved[group] = largest(before, pair.learned())
                pair.sync()
                found.synced[group] = pair.difference()
            found.packed = pair.train()
            found.trained = pair.difference()
            return found
        finally:
            pair.close()

    def sample(self, folder: str) -> tuple[list[int], float, float]:
        """All that a model sampled and took greedily; the largest difference of a completion's log-probabilities to
        the learner's, and of the scores of a sequence."""
        pair = Pair(ModelConfig(path=folder, dtype="float32"))
        try:
            pair.sync()
            ids, worst = [], 0.0
            for seed, temperature in ((0, 1.0), (1, 1.0), (2, 0.0)):
                sampling = Sampling(temperature=temperature, top_p=1.0, max_new_tokens=40)
                request = SampleRequest(request_id="r", token_ids=tuple(pair.ids), seed=seed, sampling=sampling)
                completion = dict(pair.engine.generate([request], 1))["r"]
                ids += completion.token_ids
                if temperature == 1.0:
                    learned = pair.learned([*pair.ids, *completion.token_ids])[TOKENS:]
                    worst = max(worst, largest(completion.logprobs, learned))
            return ids, worst, pair.difference()
        finally:
            pair.close()

    def sync_without_experts(self, folder: str) -> tuple[str, float]:
        """What a sync says whose experts are not set up, and the difference after one that is whole."""
        from vllm.model_executor.layers.fused_moe.unquantized_fused_moe_method import UnquantizedFusedMoEMethod

        pair, said = Pair(ModelConfig(path=folder, dtype="float32")), ""
        set_up = UnquantizedFusedMoEMethod.process_weights_after_loading
        try:
            UnquantizedFusedMoEMethod.process_weights_after_loading = lambda *arguments: None
            try:
                pair.sync()
            except WeightSyncError as error:
                said = str(error)
            UnquantizedFusedMoEMethod.process_weights_after_loading = set_up
            pair.sync()
            return said, pair.difference()
        finally:
            UnquantizedFusedMoEMethod.process_weights_after_loading = set_up
            pair.close()


class Pair:
    """An engine and the learner's policy of one model."""

    def __init__(self, config: ModelConfig) -> None:
        from gainrl_ray.actors.engine import RolloutEngine
        from gainrl_ray.model.loading import load_model
        from gainrl_ray.model.policy import PolicyModel

        self.ids = some_ids(TOKENS)
        self.model = load_model(config, sequence_tokens=MAX_MODEL_LEN)
        self.policy = PolicyModel(self.model)
        # vLLM runs some (OLMo 2) by their transformers class, which it changes in this process for learners too.
        self.model.base_model.do_not_compile = True
        self.engine = RolloutEngine(
            model=config,
            rollout=ROLLOUT,
            tolerance=1e-3,
            max_model_len=MAX_MODEL_LEN,
            log_file=Path(config.path) / "engine.log",
            in_process=True,
        )

    def groups(self) -> list[str]:
        """Names of parameters without their layers' numbers."""
        names = (name for name, _ in self.model.named_parameters())
        return sorted({".".join(part for part in name.split(".") if not part.isdigit()) for name in names})

    def change(self, group: str) -> None:
        generator = torch.Generator().manual_seed(sum(map(ord, group)))
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                if ".".join(part for part in name.split(".") if not part.isdigit()) == group:
                    parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))

    def sync(self) -> None:
        """Through many buckets, so that a layer's weights come in several."""
        from gainrl_ray.actors.buckets import pack
        from gainrl_ray.model.loading import weights_as_on_disk

        self.engine.sync(1, pack(weights_as_on_disk(self.model), 1 << 14))

    def learned(self, ids: Sequence[int] | None = None) -> tuple[float, ...]:
        from gainrl_ray.algo.batching import probe_batch

        return tuple(self._forward(probe_batch(ids or self.ids))[0].tolist())

    def difference(self) -> float:
        return largest(self.engine.score(self.ids), self.learned())

    def train(self) -> float:
        """Two steps on a pack, a sync, and the difference on its rows."""
        batch = packed_batch()
        optimizer = torch.optim.SGD(self.model.parameters(), lr=0.01)
        for _ in range(2):
            optimizer.zero_grad()
            with torch.enable_grad():
                (-self._forward(batch).sum()).backward()
            optimizer.step()
        self.sync()
        found = self._forward(batch).tolist()
        worst = 0.0
        for row, length in enumerate(batch.lengths.tolist()):
            scores = self.engine.score(batch.token_ids[row, :length].tolist())
            places = np.flatnonzero(batch.response_mask[row]).tolist()
            worst = max(worst, *(abs(found[row][place] - scores[place]) for place in places))
        return worst

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self.engine.close()
        cleanup_dist_env_and_memory()

    def _forward(self, batch: MicroBatch) -> torch.Tensor:
        from gainrl_ray.model.policy import forward_micro_batch

        return forward_micro_batch(self.policy, self.policy, batch, temperature=1.0, measure=False).logprobs


def packed_batch() -> MicroBatch:
    """Three completions of one prompt in one pack."""
    prompt, completions = some_ids(40), [some_ids(count, seed=count) for count in (20, 31, 7)]
    shape = (3, 71)
    token_ids, mask = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=bool)
    for row, completion in enumerate(completions):
        stop = 40 + len(completion)
        token_ids[row, :stop] = [*prompt, *completion]
        mask[row, 40:stop] = True
    zeros = np.zeros(shape, dtype=np.float32)
    return MicroBatch(
        token_ids=token_ids,
        lengths=mask.sum(axis=1) + 40,
        response_mask=mask,
        token_weights=zeros,
        advantages=zeros[:, 0],
        generator_logprobs=zeros,
        prefix_stop=np.full(3, 2),
        question_stop=np.full(3, 30),
        slots=np.full(3, -1),
        packs=np.zeros(3, dtype=np.int64),
    )


def some_ids(count: int, seed: int = 0) -> list[int]:
    return torch.randint(3, 390, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def largest(a: Sequence[float], b: Sequence[float]) -> float:
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def all_families() -> bool:
    """Whether every family is to be tried; the suite tries few, since each starts an engine."""
    return os.environ.get("GAINRL_ALL_FAMILIES") == "1"
