"""Rows end to end through transformers' own flash attention, with a kernel that is written out, against padded rows."""

import inspect
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch
from small_models import LENGTHS, small_model, three_rows
from tolerances import rounding

from gainrl_ray.model.layout import lay_out, model_inputs
from gainrl_ray.model.policy import PolicyModel, forward_micro_batch
from gainrl_ray.types import LineKind

FLASH, RENAMED = "flash_attention_2", "kernels-community/flash-attn2"  # its name where the package `kernels` brings it
FAMILIES = [
    ("Qwen2", {}),
    ("Qwen3", {"tie_word_embeddings": False}),
    ("Llama", {}),
    ("Mistral", {"sliding_window": None}),
    ("Phi3", {"sliding_window": None}),
    ("Olmo2", {}),
    ("Granite", {"logits_scaling": 3.0, "attention_multiplier": 0.5}),
    ("Cohere", {"logit_scale": 0.5}),
    ("SmolLM3", {"no_rope_layers": [1, 0]}),
    ("GPT2", {"n_embd": 32, "n_head": 4, "n_layer": 2}),
    ("GPTNeoX", {}),
    ("Qwen3Moe", {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}),
]


def flash_attn_varlen_func(
    q: torch.Tensor,  # [tokens, heads, head_dim]
    k: torch.Tensor,  # [tokens, key_value_heads, head_dim]
    v: torch.Tensor,
    cu_seqlens_q: torch.Tensor,
    cu_seqlens_k: torch.Tensor,
    max_seqlen_q: int,
    max_seqlen_k: int,
    dropout_p: float = 0.0,
    softmax_scale: float | None = None,
    causal: bool = False,
) -> torch.Tensor:
    """The kernel's function and signature, query by query: each sees its own row up to itself."""
    assert cu_seqlens_q.dtype == cu_seqlens_k.dtype == torch.int32, "the kernel takes no other"
    assert type(max_seqlen_q) is type(max_seqlen_k) is int, "a tensor would be fetched from the GPU"
    assert cu_seqlens_q.tolist() == cu_seqlens_k.tolist() == [0, *np.cumsum(LENGTHS)]
    assert (max_seqlen_q, max_seqlen_k, dropout_p, causal) == (max(LENGTHS), max(LENGTHS), 0.0, True)
    scale = q.shape[-1] ** -0.5 if softmax_scale is None else softmax_scale
    group = q.shape[1] // k.shape[1]
    rows = []
    for start, stop in zip(cu_seqlens_q.tolist(), cu_seqlens_q.tolist()[1:], strict=False):
        for place in range(start, stop):
            heads = []
            for head in range(q.shape[1]):
                keys, values = (each[start : place + 1, head // group] for each in (k, v))
                heads.append((scale * (keys @ q[place, head])).softmax(0) @ values)
            rows.append(torch.stack(heads))
    return torch.stack(rows)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Brings the kernel above into transformers, under both names; holds the number of times that it ran."""
    from transformers import modeling_flash_attention_utils as flash
    from transformers.integrations.flash_attention import flash_attention_forward
    from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    runs = [0]

    def counted(*tensors: Any, **settings: Any) -> torch.Tensor:
        runs[0] += 1
        return flash_attn_varlen_func(*tensors, **settings)

    counted.__signature__ = inspect.signature(flash_attn_varlen_func)  # type: ignore[attr-defined]
    settings = flash._lazy_define_process_function(counted)
    found = ((None, counted, None, flash._pad_input, flash._unpad_input), (settings, settings))
    monkeypatch.setattr(flash, "lazy_import_flash_attention", lambda *_, **__: found)
    for derived in ("_is_packed_sequence", "_prepare_from_posids", "_upad_input"):  # each waits for the GPU
        monkeypatch.setattr(flash, derived, lambda *_, name=derived: pytest.fail(f"a layer calls {name}"))
    # As transformers enters a kernel of the package `kernels`.
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, RENAMED, flash_attention_forward)
    mask = ALL_MASK_ATTENTION_FUNCTIONS._global_mapping[FLASH]
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, RENAMED, mask)
    yield runs


def trained(kind: str, settings: dict[str, Any], attention: str, checkpointing: bool) -> tuple[LineKind, list[Any]]:
    """How rows went, and log-probabilities, entropy, angles and all gradients of a weighted sum of the first."""
    model = small_model(kind, **settings).double()
    model.config._attn_implementation = attention
    model.config._experts_implementation = "eager"  # the grouped product of experts takes no float64
    policy = PolicyModel(model, gradient_checkpointing=checkpointing).train()
    output = forward_micro_batch(policy, policy, three_rows(), temperature=0.7, measure=True)
    (output.logprobs * torch.arange(9) / 9).sum().backward()
    assert output.angles is not None
    gradients = [weight.grad for weight in model.parameters() if weight.grad is not None]
    values = (output.logprobs.detach(), output.entropy, output.angles.c_intra, output.angles.c_inter)
    return policy.lines, [*values, *gradients]


@pytest.mark.parametrize(("kind", "settings"), FAMILIES, ids=[kind for kind, _ in FAMILIES])
def test_flash_attention_is_given_the_rows_and_changes_nothing(
    kind: str, settings: dict[str, Any], kernel: list[int]
) -> None:
    lines, found = trained(kind, settings, FLASH, checkpointing=False)
    assert lines is LineKind.END_TO_END
    assert kernel == [2], "once a layer"
    lines, wanted = trained(kind, settings, "eager", checkpointing=False)
    assert lines is LineKind.PACKS  # here of one row each
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        # Norms, rotary positions and log-probabilities are float32 in a float64 model too; some dozens are in a row.
        tolerance = rounding(50, float(other.abs().max()))
        torch.testing.assert_close(one.double(), other.double(), rtol=0, atol=tolerance)


@pytest.mark.parametrize(("attention", "checkpointing", "runs"), [(RENAMED, False, 2), (FLASH, True, 4)])
def test_a_renamed_kernel_and_recomputed_layers_are_given_the_same(
    kernel: list[int], attention: str, checkpointing: bool, runs: int
) -> None:
    lines, found = trained("Qwen2", {}, attention, checkpointing)
    assert (lines, kernel) == (LineKind.END_TO_END, [runs])
    _, wanted = trained("Qwen2", {}, FLASH, checkpointing=False)
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=rounding(50, float(other.abs().max())))


def test_the_rows_bounds_are_those_that_transformers_would_find() -> None:
    from transformers.modeling_flash_attention_utils import prepare_fa_kwargs_from_position_ids

    layout = lay_out(three_rows(), three_rows().response_mask, LineKind.END_TO_END)
    inputs = model_inputs(layout, additive=None)
    assert "attention_mask" not in inputs
    bounds, longest = prepare_fa_kwargs_from_position_ids(inputs["position_ids"])
    assert torch.equal(inputs["cu_seq_lens_q"], bounds[0]) and torch.equal(inputs["cu_seq_lens_k"], bounds[1])
    assert (inputs["max_length_q"], inputs["max_length_k"]) == tuple(map(int, longest))
    assert inputs["cu_seq_lens_q"].dtype == torch.int32
    moved = model_inputs(layout.to("meta"), additive=None)  # by nothing that would have to wait for the values
    assert moved["cu_seq_lens_q"].device.type == "meta" and moved["max_length_q"] == 9
