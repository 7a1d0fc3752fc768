import math

import pytest
import torch
from tolerances import rounding, roundings_in
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    OPTConfig,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from gainrl_ray.algo.angles import angle_concentration
from gainrl_ray.config import PromptConfig
from gainrl_ray.data.arithmetic import generate
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.errors import ModelError
from gainrl_ray.model import prefill
from gainrl_ray.model.loading import load_model, load_tokenizer
from gainrl_ray.model.prefill import prefill_angles, signal_module, signal_states
from gainrl_ray.types import Prompt, Span

VOCABULARY = 97
SHAPE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GPT2 = GPT2Config(
    vocab_size=VOCABULARY, n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=0, eos_token_id=1
)


def random_model(config, seed=0):
    torch.manual_seed(seed)
    # The scale of the default start leaves all states nearly parallel to their embeddings.
    model = AutoModelForCausalLM.from_config(config).eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            nn.init.normal_(parameter, std=0.3)
    return model


def qwen2(layers=3, seed=0):
    return random_model(Qwen2Config(**SHAPE, num_hidden_layers=layers), seed)


def some_prompts(count, prefix=9, seed=0):
    """Prompts with a common prefix, questions of 1 to 14 tokens and a suffix of 3."""
    generator = torch.Generator().manual_seed(seed)

    def draw(length):
        return torch.randint(VOCABULARY, (length,), generator=generator).tolist()

    shared, prompts = draw(prefix), []
    for place in range(count):
        question = draw(1 + (5 * place) % 14)
        token_ids = (*shared, *question, 3, 4, 5)
        prompts.append(
            Prompt(
                problem_id=f"p{place}",
                token_ids=token_ids,
                prefix=Span(0, prefix),
                question=Span(prefix, prefix + len(question)),
                suffix=Span(prefix + len(question), len(token_ids)),
            )
        )
    return prompts


def double_loop(model, mlp, prompt):
    """C_intra and C_inter by the definition: every pair of tokens, states of a plain forward of the whole prompt."""
    seen = []
    hook = mlp.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0][0].detach().double()))
    model(torch.tensor([prompt.token_ids]))
    hook.remove()
    states = seen[0]

    def cosine(i, j):
        return float(states[i] @ states[j]) / math.sqrt(float(states[i] @ states[i]) * float(states[j] @ states[j]))

    question, prefix = range(*prompt.question), range(*prompt.prefix)
    intra = [cosine(i, j) for i in question for j in question]
    inter = [cosine(i, j) for i in question for j in prefix]
    return sum(intra) / len(intra), sum(inter) / len(inter) if inter else 0.0


def values(scores):
    return torch.tensor([(score.c_intra, score.c_inter) for score in scores], dtype=torch.float64)


def assert_same_angles(model, found, expected):
    torch.testing.assert_close(found, expected.double(), rtol=0, atol=rounding(roundings_in(model)))  # cosines: up to 1


@pytest.mark.parametrize("layers", [1, 3])
def test_equals_the_double_loop_over_a_plain_forward(layers):
    model, prompts = qwen2(layers), some_prompts(15)
    scores = prefill_angles(model, prompts, pad_id=0, batch_tokens=100)
    expected = [double_loop(model, model.model.layers[-1].mlp, prompt) for prompt in prompts]
    assert_same_angles(model, values(scores), torch.tensor(expected, dtype=torch.float64))
    assert [score.problem_id for score in scores] == [prompt.problem_id for prompt in prompts]
    assert [score.question_tokens for score in scores] == [prompt.question.length for prompt in prompts]
    assert [score.prompt_tokens for score in scores] == [len(prompt.token_ids) for prompt in prompts]


@pytest.mark.parametrize(
    ("config", "find"),
    [
        (LlamaConfig(**SHAPE, num_hidden_layers=2), lambda model: model.model.layers[-1].mlp),
        (MistralConfig(**SHAPE, num_hidden_layers=2, sliding_window=4), lambda model: model.model.layers[-1].mlp),
        (GPT2, lambda model: model.transformer.h[-1].mlp),
    ],
    ids=["llama", "mistral with a window shorter than the prefix", "gpt2"],
)
def test_other_decoders(config, find):
    model, prompts = random_model(config), some_prompts(6)
    assert signal_module(model) is find(model)
    expected = [double_loop(model, find(model), prompt) for prompt in prompts]
    scores = prefill_angles(model, prompts, pad_id=0, batch_tokens=10_000)
    assert_same_angles(model, values(scores), torch.tensor(expected, dtype=torch.float64))


def test_left_padding_gives_the_same():
    model, prompts = qwen2(), some_prompts(8)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    pads = torch.tensor([longest - len(prompt.token_ids) for prompt in prompts])
    token_ids = torch.full((len(prompts), longest), 7)
    for row, prompt, pad in zip(token_ids, prompts, pads, strict=True):
        row[pad:] = torch.tensor(prompt.token_ids)
    mask = (torch.arange(longest) >= pads[:, None]).long()
    states = signal_states(model, token_ids, attention_mask=mask, position_ids=(mask.cumsum(1) - 1).clamp(min=0))
    prefix_stop = pads + torch.tensor([prompt.prefix.stop for prompt in prompts])
    question_stop = pads + torch.tensor([prompt.question.stop for prompt in prompts])
    padded = torch.stack(angle_concentration(states, prefix_stop, question_stop, start=pads), dim=1)
    assert_same_angles(model, values(prefill_angles(model, prompts, 0, 10_000)), padded)


def test_batches_padding_and_order_change_nothing():
    model, prompts = qwen2(), some_prompts(20)
    whole = values(prefill_angles(model, prompts, pad_id=0, batch_tokens=10_000))
    alone = values(prefill_angles(model, prompts, pad_id=96, batch_tokens=1))
    assert_same_angles(model, alone, whole)
    turned = values(prefill_angles(model, prompts[::-1], pad_id=5, batch_tokens=64))
    assert_same_angles(model, turned.flip(0), whole)


def test_prompts_of_different_prefixes_and_without_one():
    model = qwen2()
    prompts = [*some_prompts(3, prefix=9), *some_prompts(3, prefix=4, seed=1), *some_prompts(2, prefix=0, seed=2)]
    mlp = model.model.layers[-1].mlp
    expected = torch.tensor([double_loop(model, mlp, prompt) for prompt in prompts], dtype=torch.float64)
    assert_same_angles(model, values(prefill_angles(model, prompts, 0, 10_000)), expected)
    assert expected[-1, 1] == 0


def test_the_prefix_runs_once_suffixes_never_and_batches_keep_their_bound():
    model, prompts = qwen2(), some_prompts(40, prefix=9)
    batches = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, arguments: batches.append(arguments[0].shape))
    prefill_angles(model, prompts, pad_id=0, batch_tokens=100)
    hook.remove()
    prefix, *questions = batches
    assert prefix == (1, 9)
    assert sum(rows for rows, _ in questions) == 40
    assert all(rows * (9 + longest) <= 100 for rows, longest in questions)
    assert max(longest for _, longest in questions) == 14


def test_batches_are_full_with_enough_tokens_and_narrow_before(monkeypatch):
    monkeypatch.setitem(prefill.ENOUGH_TOKENS, "cpu", 24)
    model, prompts = qwen2(), some_prompts(42)  # three questions of each length from 1 to 14
    batches = []
    hook = model.model.embed_tokens.register_forward_pre_hook(lambda _, arguments: batches.append(arguments[0].shape))
    prefill_angles(model, prompts, pad_id=0, batch_tokens=10_000)
    hook.remove()
    # A fourth row would make 8 tokens of length 2, then 12 of length 3: over a quarter of 24, and wider than 1.1 times.
    assert batches[1:3] == [(3, 1), (3, 2)]
    assert all(rows * longest <= 24 for rows, longest in batches[1:])
    assert sum(rows for rows, _ in batches[1:]) == 42


def test_nothing_after_the_signal_layer_runs_and_the_model_is_left_as_it_was():
    model, prompts = qwen2(), some_prompts(3)
    before = model(torch.tensor([prompts[0].token_ids])).logits
    ran = []
    last = (model.model.layers[-1].mlp.gate_proj, model.model.norm, model.lm_head)
    hooks = [module.register_forward_pre_hook(lambda *_: ran.append(1)) for module in last]
    prefill_angles(model, prompts, pad_id=0, batch_tokens=10_000)
    assert ran == []
    for hook in hooks:
        hook.remove()
    assert len(model.model.layers[-1].mlp._forward_pre_hooks) == 0
    torch.testing.assert_close(model(torch.tensor([prompts[0].token_ids])).logits, before, rtol=0, atol=0)


def test_states_carry_no_gradient_and_wrappers_do_not_matter():
    class Wrapper(nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

    model = qwen2()
    assert not signal_states(model, torch.tensor([[1, 2, 3]])).requires_grad
    assert signal_module(Wrapper(model)) is model.model.layers[-1].mlp


def test_bfloat16_is_close_to_float32():
    prompts = some_prompts(10)
    model = qwen2()
    exact = values(prefill_angles(model, prompts, 0, 10_000))
    rough = values(prefill_angles(model.to(torch.bfloat16), prompts, 0, 10_000))
    # Sums are in float32, a dozen tensors of each of 3 blocks are rounded, and cosines average over the features.
    allowed = rounding(3 * 12, 1 / math.sqrt(SHAPE["hidden_size"]), torch.bfloat16)
    torch.testing.assert_close(rough, exact, rtol=0, atol=allowed)
    assert not torch.equal(rough, exact)


def test_two_models_order_real_prompts_differently_and_neither_by_length(tiny_model_config):
    tokenizer = load_tokenizer(tiny_model_config)
    builder = PromptBuilder(tokenizer, PromptConfig())
    prompts = [builder.build(item.problem) for item in generate("train", 40)]
    tiny = load_model(tiny_model_config)
    other = Qwen2ForCausalLM(tiny.config).eval()
    orders = [
        sorted(scores, key=lambda score: -(score.c_intra + score.c_inter))
        for scores in (prefill_angles(model, prompts, 0, 4096) for model in (tiny, other))
    ]
    ids = [[score.problem_id for score in order] for order in orders]
    assert ids[0] != ids[1]
    for order in orders:
        lengths = [score.prompt_tokens for score in order]
        assert lengths != sorted(lengths)
        assert lengths != sorted(lengths, reverse=True)


def test_a_prompt_longer_than_the_model_is_refused():
    model = random_model(Qwen2Config(**(SHAPE | {"max_position_embeddings": 16}), num_hidden_layers=1))
    with pytest.raises(
        ModelError, match=r"problem p1: its prompt has 18 tokens, the model has 16 positions.*max_tokens"
    ):
        prefill_angles(model, some_prompts(3), pad_id=0, batch_tokens=100)


def test_a_model_without_a_list_of_blocks_with_mlp_is_refused():
    opt = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=32, ffn_dim=48, num_hidden_layers=1, num_attention_heads=4, pad_token_id=2
    )
    with pytest.raises(ModelError, match="OPTForCausalLM has no signal layer: expected a list of decoder blocks"):
        signal_module(random_model(opt))
