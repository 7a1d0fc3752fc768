"""What the start model is trained on, and that training it for a moment works."""

import math
from itertools import groupby
from pathlib import Path

import pytest
import torch
from tolerances import rounding, roundings_in
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from gainrl_ray.model.pretraining import (
    PROBLEM_SEED,
    STEP_BY_STEP_SHARE,
    Batch,
    Recipe,
    build_model,
    build_tokenizer,
    lessons,
    save,
    train,
)

SHORT = Recipe(equation_steps=2, equation_batch=4, problem_steps=2, style_steps=40, batch=12, warmup=2)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return build_tokenizer(PROBLEM_SEED)


@pytest.fixture(scope="module")
def batches(tokenizer: PreTrainedTokenizerBase) -> list[Batch]:
    return list(lessons(tokenizer, SHORT))


def test_lessons_follow_each_other_and_are_the_same_each_time(
    tokenizer: PreTrainedTokenizerBase, batches: list[Batch]
) -> None:
    order = [(lesson, len(list(part))) for lesson, part in groupby(batches, key=lambda batch: batch.lesson)]
    assert order == [("equations", 2), ("problems", 2), ("styles", 40)]
    assert [len(batch.prefix) > 0 for batch in batches] == [False] * 4 + [True] * 40
    assert list(lessons(tokenizer, SHORT)) == batches


def test_equations_weigh_only_what_can_be_calculated(tokenizer: PreTrainedTokenizerBase, batches: list[Batch]) -> None:
    example = batches[0].examples[0]
    pieces = tokenizer.convert_ids_to_tokens(list(example.token_ids))
    kept = "".join(piece if weight else "_" for piece, weight in zip(pieces, example.weights, strict=True))
    shown = "".join(pieces)
    first_line, kept_line = shown.split("Ċ")[1], kept[len(kept) - len(shown.partition("Ċ")[2]) :]
    assert all(weight in (0.0, 1.0) for weight in example.weights)
    assert not any(sign in kept for sign in "+-*/")
    assert kept.count("=") == shown.count("=") and kept.endswith(shown[shown.index("The") :])
    assert first_line.split("=")[1] == kept_line.split("=")[1].split("Ċ")[0]


def test_the_choice_is_weighted_to_the_wanted_shares(tokenizer: PreTrainedTokenizerBase, batches: list[Batch]) -> None:
    """Summed weights of the first tokens: steps over all is near the mean of the shares of levels 1 to 6."""
    steps_token, bare_token = (tokenizer(text)["input_ids"][0] for text in ("Steps:", "The answer"))
    weight = {steps_token: 0.0, bare_token: 0.0}
    for batch in batches[4:]:
        for example in batch.examples:
            first = next(place for place, value in enumerate(example.weights) if value)
            weight[example.token_ids[first]] += example.weights[first]
            assert set(example.weights[first + 1 :]) == {1.0}
    wanted = sum(STEP_BY_STEP_SHARE.values()) / 6
    assert weight[steps_token] / sum(weight.values()) == pytest.approx(wanted, abs=0.05)


def test_a_shared_prefix_gives_the_loss_of_whole_prompts(
    tokenizer: PreTrainedTokenizerBase, batches: list[Batch]
) -> None:
    from gainrl_ray.model.pretraining import _loss

    model, batch = build_model(tokenizer, 0).eval(), batches[5]
    total, count = 0.0, 0
    with torch.no_grad():
        for example in batch.examples:
            ids = torch.tensor([[*batch.prefix, *example.token_ids]])
            logprobs = model(ids).logits[0].log_softmax(-1)
            for place, weight in enumerate(example.weights):
                if weight:
                    position = len(batch.prefix) + place
                    total -= weight * logprobs[position - 1, ids[0, position]].item()
                    count += 1
        assert _loss(model, batch).item() == pytest.approx(total / count, rel=rounding(roundings_in(model)))


def test_a_short_training_lowers_the_loss_and_writes_a_folder(
    tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    recipe = Recipe(seed=3, equation_steps=25, equation_batch=4, problem_steps=1, style_steps=1, batch=2, warmup=2)
    model, lines = build_model(tokenizer, recipe.seed), []
    train(model, tokenizer, recipe, lines.append)
    first, last = (float(line.split("loss ")[1].split(",")[0]) for line in (lines[0], lines[-1]))
    assert lines[0].startswith("step 20/27 (equations)") and last < first < 2 * math.log(len(tokenizer))
    save(tmp_path, model, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))
    assert Recipe().shortened(0.001).steps == 3
