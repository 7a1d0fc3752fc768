"""Adapters trained under every ZeRO stage are those of plain torch on dense weights, and leave it both ways."""

import json
from pathlib import Path
from typing import Any

import lora_checks
import numpy as np
import pytest
import torch
import zero_checks
from learner_ranks import run_ranks, save_small_model
from tolerances import assert_equal_but_for_rounding, rounding, roundings_in

from gainrl_ray.types import MicroBatch

STAGES = range(4)
SCALE = lora_checks.ALPHA / lora_checks.RANK
PREFIX = "base_model.model."
TRAINED = 2 * lora_checks.RANK * (2 * (32 + 32) + 2 * (32 + 16) + 3 * (32 + 64))  # 2 layers: q and o, k and v, the MLP


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return save_small_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def seen(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each of two ranks saw."""
    return run_ranks("lora_checks.py", 2, small_model, tmp_path_factory.mktemp("lora") / "ranks")


@pytest.fixture(scope="module")
def expected(small_model: str, seen: Any) -> list[dict[str, Any]]:
    """Three steps on the same start factors, by plain torch."""
    config = lora_checks.make_config(small_model, 0)
    return _plain_steps(small_model, seen[0]["stage0"]["factors"], config)


def _plain_steps(path: str, start: dict[str, torch.Tensor], config: Any) -> list[dict[str, Any]]:
    """Dense weights W + s B A inside a full model, gradients through the whole weight, clipping and AdamW by hand."""
    model, base = _base(path)
    factors = {name: tensor.clone().requires_grad_() for name, tensor in start.items()}
    moments = {name: [torch.zeros_like(tensor), torch.zeros_like(tensor)] for name, tensor in start.items()}
    found, roundings, moved = [], roundings_in(model), 0.0
    for step, seed in enumerate(lora_checks.SEEDS):
        (batch,) = zero_checks.make_batches(config, seed, ranks=1, tokens=zero_checks.ALL_IN_ONE, step=step)
        loss = _plain_loss(model, base, _dense(base, factors), batch.updates[0][0], config.rollout.temperature)
        gradients = dict(zip(factors, torch.autograd.grad(loss, list(factors.values())), strict=True))
        norm = torch.stack([gradient.square().sum() for gradient in gradients.values()]).sum().sqrt()
        rate = (0.005, 0.01, 0.01)[step]  # warm-up of two updates to 0.01, then a fall that begins there
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        # Adam moves a factor by at most rate / eps of what its gradient is off; a weight is a sum over the rank.
        moved += rate / 1e-3 * rounding(roundings, largest / max(1.0, norm.item()))
        allowed = {
            "norm": rounding(roundings),
            "loss": rounding(roundings, -float(min(batch.updates[0][0].generator_logprobs.min(), -1.0))),
            "gradients": rounding(roundings, largest) + moved,
            "weights": moved,
        }
        with torch.no_grad():
            for name, factor in factors.items():
                clipped = gradients[name] * min(1.0, 1.0 / norm.item())
                first, second = moments[name]
                first.mul_(0.9).add_(0.1 * clipped)
                second.mul_(0.999).add_(0.001 * clipped.square())
                root = (second / (1 - 0.999 ** (step + 1))).sqrt()
                factor -= rate * (first / (1 - 0.9 ** (step + 1))) / (root + 1e-3)
        weights = {name: tensor.detach() for name, tensor in _dense(base, factors).items()}
        found.append(
            {"loss": loss.item(), "norm": norm.item(), "gradients": gradients, "weights": weights, "allowed": allowed}
        )
    return found


def _base(path: str) -> tuple[Any, dict[str, torch.Tensor]]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    return model, {name: weight.detach().clone() for name, weight in model.named_parameters()}


def _dense(base: dict[str, torch.Tensor], factors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    weights = dict(base)
    for name, up in factors.items():
        if ".lora_B." in name:
            path = name.removeprefix(PREFIX).removesuffix(".lora_B.weight")
            weights[f"{path}.weight"] = base[f"{path}.weight"] + SCALE * up @ factors[name.replace("lora_B", "lora_A")]
    return weights


def _plain_loss(
    model: Any, base: dict[str, torch.Tensor], weights: dict[str, torch.Tensor], batch: MicroBatch, temperature: float
) -> torch.Tensor:
    """GRPO's loss at the old policy with the KL penalty towards the base model, token by token."""
    loss = torch.zeros(())
    for row, length in enumerate(batch.lengths.tolist()):
        token_ids = torch.from_numpy(batch.token_ids[row, :length]).unsqueeze(0)
        table, reference = (
            (torch.func.functional_call(model, held, (token_ids,)).logits[0] / temperature).log_softmax(-1)
            for held in (weights, base)
        )
        for place in np.flatnonzero(batch.response_mask[row]).tolist():
            token = token_ids[0, place]
            logprob, ref_logprob = table[place - 1, token], reference[place - 1, token]
            importance = (logprob.detach() - float(batch.generator_logprobs[row, place])).exp().clamp(max=2.0)
            surrogate = -importance * (logprob - logprob.detach()).exp() * float(batch.advantages[row])
            difference = ref_logprob - logprob
            penalty = difference.exp() - difference - 1
            loss = loss + float(batch.token_weights[row, place]) * (surrogate + lora_checks.KL_COEF * penalty)
    return loss


def _worst(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> float:
    return max(float((found[name].float() - value.float()).abs().max()) for name, value in wanted.items())


def _logprobs(model: Any) -> torch.Tensor:
    token_ids = torch.tensor([zero_checks.PROBE])
    with torch.no_grad():
        table = model(token_ids).logits[0].float().log_softmax(dim=-1)
    return table[:-1].gather(1, token_ids[0, 1:, None])[:, 0]


@pytest.mark.parametrize("stage", STAGES)
def test_steps_are_those_of_the_same_low_rank_update_of_dense_weights(seen: Any, expected: Any, stage: int) -> None:
    found = seen[0][f"stage{stage}"]
    for step, wanted in enumerate(expected):
        report, allowed = found["straight"][step]["report"], wanted["allowed"]
        assert report["loss"] == pytest.approx(wanted["loss"], abs=allowed["loss"])
        assert report["grad_norm"] == pytest.approx(wanted["norm"], rel=allowed["norm"])
        gradients = {_in_a_file(name): gradient for name, gradient in found["gradients"][step].items()}
        assert gradients.keys() == wanted["gradients"].keys()
        assert _worst(gradients, wanted["gradients"]) < allowed["gradients"]
        assert found["straight"][step]["weights"].keys() == wanted["weights"].keys()
        assert _worst(found["straight"][step]["weights"], wanted["weights"]) < allowed["weights"]
    assert found["straight"][0]["report"]["kl"] == 0.0, "before its first update the policy is its reference"
    assert found["straight"][2]["report"]["kl"] > 1e-4


def _in_a_file(name: str) -> str:
    return PREFIX + name.replace(".default.", ".")


@pytest.mark.parametrize("stage", STAGES)
def test_only_adapters_are_trained_kept_and_drawn_alike(seen: Any, small_model: str, stage: int) -> None:
    _, base = _base(small_model)
    found = seen[0][f"stage{stage}"]
    assert found["start"].keys() == base.keys() and _worst(found["start"], base) == 0.0
    assert _worst(found["factors"], seen[0]["stage0"]["factors"]) == 0.0, "whatever the stage"
    assert sum(factor.numel() for factor in found["factors"].values()) == TRAINED
    moments = [rank[f"stage{stage}"]["moments"] for rank in seen]
    if stage == 0:
        assert moments == [TRAINED, TRAINED]
    else:
        assert TRAINED <= sum(moments) <= TRAINED + 64, "each rank has its share, with some padding"
    untouched = {name: tensor for name, tensor in base.items() if "_proj.weight" not in name}
    assert _worst(found["straight"][2]["weights"], untouched) == 0.0
    files = (seen[0]["folder"] / f"stage{stage}").rglob("*model_states.pt")
    states = [torch.load(file, weights_only=False)["module"] for file in files]
    assert states and all("lora_" in name for state in states for name in state)


@pytest.mark.parametrize("case", [*(f"stage{stage}" for stage in STAGES), "bf16_0", "bf16_2"])
def test_a_resumed_run_goes_on_exactly(seen: Any, case: str) -> None:
    found = seen[0][case]
    assert _worst(found["loaded"], found["straight"][0]["weights"]) == 0.0
    for resumed, straight in zip(found["resumed"], found["straight"][1:], strict=True):
        assert _worst(resumed["weights"], straight["weights"]) == 0.0
        assert resumed["report"] == straight["report"]
    assert _worst(found["straight"][2]["weights"], found["straight"][0]["weights"]) > 1e-3


def test_gradient_checkpointing_changes_nothing(seen: Any, expected: Any) -> None:
    found, wanted = seen[0]["checkpointing3"]["straight"][0], expected[0]
    assert _worst(found["weights"], wanted["weights"]) < wanted["allowed"]["weights"]


@pytest.mark.parametrize("case", ["stage0", "stage3"])
def test_the_merged_export_and_the_adapter_export_are_the_policy(seen: Any, small_model: str, case: str) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = seen[0]["folder"] / f"{case}_model"
    merged, info = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    adapted = PeftModel.from_pretrained(_base(small_model)[0], folder / "adapter")
    probe = torch.tensor(seen[0][case]["probe"][1:])
    for model in (merged, adapted):
        assert_equal_but_for_rounding(_logprobs(model), probe, roundings_in(model))
    assert (probe - _logprobs(_base(small_model)[0])).abs().max() > 1e-2, "training changed what the probe sees"
    assert AutoTokenizer.from_pretrained(folder).encode("2+2") == AutoTokenizer.from_pretrained(small_model).encode(
        "2+2"
    )
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == small_model
    assert (settings["r"], settings["lora_alpha"], settings["lora_dropout"]) == (4, 8.0, 0.0)


def test_adapters_travel_and_are_exported_alone(seen: Any, small_model: str) -> None:
    found = seen[0]["alone"]
    chosen = {
        f"{PREFIX}model.layers.{layer}.{path}" for layer in (0, 1) for path in ("self_attn.q_proj", "mlp.down_proj")
    }
    assert found["start"].keys() == {f"{path}.{factor}.weight" for path in chosen for factor in ("lora_A", "lora_B")}
    assert found["bytes"] == sum(tensor.nbytes for tensor in found["start"].values())
    (step,) = found["straight"]
    for name, tensor in found["start"].items():
        assert tensor.dtype == torch.bfloat16
        # The gradient of a first factor is 0 as long as the second is.
        assert torch.equal(step["weights"][name], tensor) == (".lora_A." in name)
    assert seen[1]["alone"]["start"] == {}, "factors are gathered for rank 0 alone"
    folder: Path = seen[0]["folder"] / "alone_model"
    assert [path.name for path in folder.iterdir()] == ["adapter"]
    settings = json.loads((folder / "adapter" / "adapter_config.json").read_text())
    assert settings["target_modules"] == ["down_proj", "q_proj"]


def test_a_checkpoint_of_other_adapters_is_refused(seen: Any) -> None:
    for rank in seen:
        assert "lora: checkpoint {'rank': 4, 'alpha': 8.0, 'targets': []}, run {'rank': 4" in rank["refused"]


def test_nothing_is_printed(seen: Any) -> None:
    assert [line for rank in seen for line in rank["log"].splitlines()] == []
