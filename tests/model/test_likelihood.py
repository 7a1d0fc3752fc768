import math

import pytest
import torch
from test_prefill import GPT2, SHAPE, qwen2, random_model, some_prompts
from tolerances import rounding, roundings_in
from transformers import Gemma2Config, MistralConfig

from gainrl_ray.errors import ModelError
from gainrl_ray.model.likelihood import GoldSequence, gold_likelihoods
from gainrl_ray.model.policy import PolicyModel


def some_sequences(count, prefix=9):
    """Prompts followed by a text of 2 tokens and answers of 1 to 3."""
    return [
        GoldSequence(
            prompt=prompt, token_ids=(11, 12, *range(20 + place, 21 + place + place % 3)), gold_tokens=place % 3 + 1
        )
        for place, prompt in enumerate(some_prompts(count, prefix=prefix))
    ]


def alone(model, sequence):
    """The definition: a plain forward of the whole sequence, the last tokens' probabilities multiplied up."""
    token_ids = [*sequence.prompt.token_ids, *sequence.token_ids]
    with torch.no_grad():
        probabilities = model(torch.tensor([token_ids]), use_cache=False).logits[0].double().softmax(-1)
    product = 1.0
    for place in range(len(token_ids) - sequence.gold_tokens, len(token_ids)):
        product *= float(probabilities[place - 1, token_ids[place]])
    return product ** (1 / sequence.gold_tokens)


def near(model, likelihoods):
    """Relative: what the logarithms, of that size, may be off by."""
    return pytest.approx(likelihoods, rel=rounding(roundings_in(model), -math.log(min(likelihoods))))


@pytest.mark.parametrize("prefix", [9, 0])
@pytest.mark.parametrize("batch_tokens", [1, 100, 10_000])
def test_equals_a_plain_forward_of_each_sequence_alone(prefix, batch_tokens):
    model, sequences = qwen2(), some_sequences(9, prefix)
    expected = [alone(model, sequence) for sequence in sequences]
    found = gold_likelihoods(PolicyModel(model), sequences, batch_tokens)
    assert found == near(model, expected)
    assert len({round(math.log(value), 3) for value in found}) == len(found)


@pytest.mark.parametrize(
    "config",
    [
        MistralConfig(**SHAPE, num_hidden_layers=2, sliding_window=4),
        GPT2,
        Gemma2Config(**SHAPE, num_hidden_layers=2, head_dim=8, sliding_window=64, final_logit_softcapping=2.0),
    ],
    ids=["mistral with a window shorter than the prefix", "gpt2", "gemma2, which caps its logits"],
)
def test_other_decoders(config):
    model, sequences = random_model(config), some_sequences(5)
    expected = [alone(model, sequence) for sequence in sequences]
    assert gold_likelihoods(PolicyModel(model), sequences, 10_000) == near(model, expected)


def test_a_sequence_longer_than_the_model_is_refused():
    with pytest.raises(ModelError, match=r"problem p0: its prompt has 133 tokens, the model has 128 positions"):
        gold_likelihoods(PolicyModel(qwen2()), some_sequences(1, prefix=126), 10_000)
