"""Log-probabilities, entropy and angles of a micro-batch against plain computations."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from small_models import PROMPTS, small_model, three_rows
from tolerances import assert_equal_but_for_rounding, rounding, roundings_in

import gainrl_ray.model.policy as policy_module
from gainrl_ray.config import ModelConfig
from gainrl_ray.model.layout import lay_out, model_inputs
from gainrl_ray.model.loading import load_model
from gainrl_ray.model.policy import PolicyModel, PolicyOutput, forward_micro_batch
from gainrl_ray.model.prefill import prefill_angles
from gainrl_ray.model.trials import head_is_plain
from gainrl_ray.types import LineKind, MicroBatch, Prompt, Span

TEMPERATURE = 0.7


def _forward(policy: PolicyModel, batch: MicroBatch, **options: Any) -> PolicyOutput:
    return forward_micro_batch(policy, policy, batch, **{"temperature": TEMPERATURE, "measure": False, **options})


def _expected(model: Any, batch: MicroBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """Row by row without padding, all logits, in float64 after the model."""
    logprobs = torch.zeros(batch.token_ids.shape, dtype=torch.float64)
    entropy = torch.zeros_like(logprobs)
    for row, length in enumerate(batch.lengths.tolist()):
        token_ids = torch.from_numpy(batch.token_ids[row, :length])
        with torch.no_grad():
            table = (model(token_ids.unsqueeze(0)).logits[0].double() / TEMPERATURE).log_softmax(dim=-1)
        for place in np.flatnonzero(batch.response_mask[row]).tolist():
            logprobs[row, place] = table[place - 1, token_ids[place]]
            entropy[row, place] = -(table[place - 1].exp() * table[place - 1]).sum()
    return logprobs, entropy


@pytest.mark.parametrize(
    ("kind", "settings", "plain"),
    [
        ("Qwen2", {"tie_word_embeddings": True}, True),
        ("Llama", {"tie_word_embeddings": False}, True),
        ("Gemma2", {"final_logit_softcapping": 5.0, "query_pre_attn_scalar": 8}, False),
        ("Granite", {"logits_scaling": 3.0}, False),
    ],
)
def test_logprobs_are_those_of_all_logits(kind: str, settings: dict[str, Any], plain: bool) -> None:
    model = small_model(kind, **settings)
    assert head_is_plain(model) is plain
    output = _forward(PolicyModel(model), three_rows())
    logprobs, entropy = _expected(model, three_rows())
    assert_equal_but_for_rounding([output.logprobs, output.entropy], [logprobs, entropy], roundings_in(model))
    assert output.logprobs.dtype == torch.float32
    assert not output.entropy.requires_grad


def test_chunks_change_neither_values_nor_gradients(monkeypatch: pytest.MonkeyPatch) -> None:
    found = []
    for logits in (1 << 26, 2 * 96):  # all responses at once; two tokens at a time, recomputed
        monkeypatch.setattr(policy_module, "LOGITS_OF_A_CHUNK", logits)
        model = small_model("Qwen2", tie_word_embeddings=True)
        output = _forward(PolicyModel(model), three_rows())
        (output.logprobs * torch.arange(9)).sum().backward()
        found.append((output.logprobs.detach(), [weight.grad for weight in model.parameters()]))
    for one, other in zip(*found, strict=True):
        assert_equal_but_for_rounding(one, other, roundings_in(model))


def test_gradient_checkpointing_changes_no_gradient() -> None:
    gradients = []
    for checkpointing in (False, True):
        model = small_model("Qwen2", tie_word_embeddings=True)
        policy = PolicyModel(model, gradient_checkpointing=checkpointing).train()
        _forward(policy, three_rows(), measure=True).logprobs.sum().backward()
        gradients.append([weight.grad for weight in model.parameters()])
    assert_equal_but_for_rounding(gradients[0], gradients[1], roundings_in(model))


def test_angles_are_those_of_the_prompt_alone() -> None:
    model, batch = small_model("Qwen2", tie_word_embeddings=True), three_rows()
    angles = _forward(PolicyModel(model), batch, measure=True).angles
    assert angles is not None
    assert angles.slots.tolist() == [4, 2]
    assert angles.question_tokens.tolist() == [2, 3]
    prompts = []
    for row in (0, 2):
        stops = int(batch.prefix_stop[row]), int(batch.question_stop[row]), PROMPTS[row]
        spans = [Span(0, stops[0]), Span(stops[0], stops[1]), Span(stops[1], stops[2])]
        ids = tuple(batch.token_ids[row, : stops[2]].tolist())
        prompts.append(Prompt(problem_id=str(row), token_ids=ids, prefix=spans[0], question=spans[1], suffix=spans[2]))
    scores = prefill_angles(model, prompts, pad_id=0, batch_tokens=100)
    allowed = rounding(roundings_in(model))
    assert angles.c_intra.tolist() == pytest.approx([score.c_intra for score in scores], abs=allowed)
    assert angles.c_inter.tolist() == pytest.approx([score.c_inter for score in scores], abs=allowed)


def test_prompt_only_measures_the_same_angles_and_runs_no_head() -> None:
    model = small_model("Qwen2", tie_word_embeddings=True)
    policy = PolicyModel(model)
    whole, alone = (
        _forward(policy, three_rows(), measure=True),
        _forward(policy, three_rows(), measure=True, prompt_only=True),
    )
    assert whole.angles is not None
    assert alone.angles is not None
    assert torch.equal(whole.angles.c_intra, alone.angles.c_intra)
    assert alone.logprobs.abs().sum() == 0


def test_no_hook_stays_behind_and_unwanted_rows_cost_nothing() -> None:
    model = small_model("Qwen2", tie_word_embeddings=True)
    policy = PolicyModel(model)
    assert _forward(policy, three_rows(slots=(-1, -1, -1)), measure=True).angles is None
    _forward(policy, three_rows(), measure=True)
    assert not model.model.layers[-1].mlp._forward_pre_hooks


def test_a_dummy_reaches_every_weight_with_a_gradient_of_zero() -> None:
    model, batch = small_model("Llama", tie_word_embeddings=False), three_rows()
    batch.response_mask[:] = False
    output = _forward(PolicyModel(model), batch)
    assert output.logprobs.abs().sum() == 0
    output.logprobs.sum().backward()
    assert all(weight.grad is not None and not weight.grad.any() for weight in model.parameters())


def test_dropout_is_switched_off() -> None:
    model = small_model("Qwen2", tie_word_embeddings=True, attention_dropout=0.5)
    policy = PolicyModel(model).train()
    assert torch.equal(_forward(policy, three_rows()).logprobs, _forward(policy, three_rows()).logprobs)


@pytest.mark.parametrize("kind", ["Qwen2", "Gemma2"], ids=["by its head", "by its own logits"])
def test_ids_without_a_token_have_no_part_in_the_distribution(kind: str) -> None:
    model, unused = small_model(kind, tie_word_embeddings=False), [3, 91, 92, 93, 94, 95]
    with torch.no_grad():
        model.lm_head.weight[unused] *= 10
    model.register_buffer("unused_ids", torch.tensor(unused), persistent=False)
    batch = three_rows()
    batch = replace(batch, token_ids=np.where(batch.token_ids == 3, 4, batch.token_ids))
    output = _forward(policy := PolicyModel(model), batch)
    (output.logprobs.sum()).backward()
    used = [token_id for token_id in range(96) if token_id not in unused]
    shares = []
    for row, place in zip(*np.nonzero(batch.response_mask), strict=True):
        with torch.no_grad():
            logits = (
                model(torch.from_numpy(batch.token_ids[row : row + 1, :place])).logits[0, -1].double() / TEMPERATURE
            )
        shares.append(logits.softmax(-1)[unused].sum().item())
        table = logits[used].log_softmax(-1)
        expected = table[used.index(batch.token_ids[row, place])].item()
        entropy = -(table.exp() * table).sum().item()
        allowed = rounding(roundings_in(model), logits.abs().max().item())
        assert output.logprobs[row, place].item() == pytest.approx(expected, abs=allowed)
        assert output.entropy[row, place].item() == pytest.approx(entropy, abs=allowed)
    assert max(shares) > 0.3, "they would make no difference anyway"
    gradient = policy.language_model.lm_head.weight.grad
    assert not gradient[unused].any() and gradient[used].any()


def test_bfloat16_gives_float32_logprobs(tiny_model_config: ModelConfig) -> None:
    model = load_model(tiny_model_config, dtype="bfloat16")
    output = _forward(PolicyModel(model), three_rows(), measure=True)
    assert output.logprobs.dtype == torch.float32
    assert output.angles is not None
    assert output.angles.c_intra.dtype == torch.float64


def _packed_batch() -> MicroBatch:
    """Two problems: a pack of three completions and a row of one, then another problem's pack of two."""
    rng = np.random.default_rng(1)
    prompts = [rng.integers(0, 90, 5), rng.integers(0, 90, 7)]
    rows = [(0, 4, 0), (0, 1, 0), (0, 3, 0), (0, 2, 1), (1, 2, 2), (1, 5, 2)]  # prompt, completion's length, pack
    shape = (len(rows), 12)
    token_ids, mask = np.full(shape, 3, dtype=np.int64), np.zeros(shape, dtype=bool)
    for row, (prompt, length, _) in enumerate(rows):
        start = len(prompts[prompt])
        token_ids[row, :start] = prompts[prompt]
        token_ids[row, start : start + length] = rng.integers(0, 90, length)
        mask[row, start : start + length] = True
    return MicroBatch(
        token_ids=token_ids,
        lengths=np.asarray([len(prompts[prompt]) + length for prompt, length, _ in rows]),
        response_mask=mask,
        token_weights=mask.astype(np.float32),
        advantages=np.ones(len(rows), dtype=np.float32),
        generator_logprobs=np.zeros(shape, dtype=np.float32),
        prefix_stop=np.asarray([2, 2, 2, 2, 3, 3]),
        question_stop=np.asarray([4, 4, 4, 4, 6, 6]),
        slots=np.asarray([-1, 0, -1, -1, 1, -1]),
        packs=np.asarray([pack for *_, pack in rows]),
    )


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("kind", ["Qwen2", "Llama"])
@pytest.mark.parametrize("lines", [LineKind.PACKS, LineKind.END_TO_END])
def test_lines_change_neither_values_nor_gradients_nor_angles(lines: LineKind, kind: str, attention: str) -> None:
    found = []
    for each in (lines, LineKind.ROWS):
        model = small_model(kind, tie_word_embeddings=True, attn_implementation=attention)
        policy, batch = PolicyModel(model), _packed_batch()
        assert policy.lines is LineKind.PACKS
        policy.lines = each
        output = _forward(policy, batch, measure=True)
        (output.logprobs * torch.arange(12) / 12).sum().backward()
        assert output.angles is not None and output.angles.slots.tolist() == [0, 1]
        angles = output.angles.c_intra + output.angles.c_inter
        gradients = [weight.grad for weight in model.parameters()]
        found.append((output.logprobs.detach(), output.entropy, angles, gradients))
    for one, other in zip(*found, strict=True):
        assert_equal_but_for_rounding(one, other, roundings_in(model))
    logprobs, entropy = _expected(model, batch)
    assert_equal_but_for_rounding(found[0][:2], [logprobs, entropy], roundings_in(model))


def test_a_packed_line_holds_the_prompt_once() -> None:
    batch = _packed_batch()
    layout = lay_out(batch, batch.response_mask, LineKind.PACKS)
    assert layout.segments.tolist() == [
        [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 3, 3, 3, -1],
        [0, 0, 0, 0, 0, 1, 1, -1, -1, -1, -1, -1, -1, -1],
        [0, 0, 0, 0, 0, 0, 0, 1, 1, 2, 2, 2, 2, 2],
    ]
    inputs = model_inputs(layout, additive=None)
    assert inputs["position_ids"].tolist() == [
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 5, 5, 6, 7, 0],
        [0, 1, 2, 3, 4, 5, 6, 0, 0, 0, 0, 0, 0, 0],
        [0, 1, 2, 3, 4, 5, 6, 7, 8, 7, 8, 9, 10, 11],
    ]
    assert layout.line_of_row.tolist() == [0, 0, 0, 1, 2, 2]
    # The token after the second completion's first sees the prompt, itself and nothing of its neighbours.
    assert inputs["attention_mask"][0, 0, 10].tolist() == [True] * 5 + [False] * 5 + [True] + [False] * 3


def test_a_line_of_all_rows_has_no_padding_and_no_mask() -> None:
    batch = three_rows()
    layout = lay_out(batch, batch.response_mask, LineKind.END_TO_END)
    assert layout.token_ids.tolist() == [
        [*batch.token_ids[0, :9].tolist(), *batch.token_ids[1, :6].tolist(), *batch.token_ids[2, :7].tolist()]
    ]
    inputs = model_inputs(layout, additive=None)
    assert "attention_mask" not in inputs
    assert inputs["position_ids"].tolist() == [[*range(9), *range(6), *range(7)]]
    assert layout.predecessors.tolist() == [4, 5, 6, 7, 12, 13, 18, 19, 20]
    assert layout.start_of_row.tolist() == [0, 9, 15]
