import torch
from test_prefill import qwen2, some_prompts
from tolerances import assert_equal_but_for_rounding, roundings_in

from gainrl_ray.model.embedding import question_means


def test_equals_the_mean_of_a_plain_forwards_states():
    model, prompts = qwen2(), [*some_prompts(7), *some_prompts(2, prefix=0, seed=1)]
    expected = []
    for prompt in prompts:
        seen = []
        hook = model.model.layers[-1].mlp.register_forward_pre_hook(
            lambda _, given, seen=seen: seen.append(given[0][0])
        )
        with torch.no_grad():
            model(torch.tensor([prompt.token_ids]))
        hook.remove()
        expected.append(seen[0][prompt.question.start : prompt.question.stop].mean(dim=0))
    for batch_tokens in (1, 60, 10_000):
        found = question_means(model, prompts, batch_tokens)
        assert_equal_but_for_rounding(found, torch.stack(expected), roundings_in(model))
