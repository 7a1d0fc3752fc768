"""PolicyEngine on one and on two ranks, every ZeRO stage, against a plain torch computation."""

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zero_checks
from learner_ranks import run_ranks, save_small_model
from tolerances import rounding, roundings_in

from gainrl_ray.actors.zero_state import gathered_weights
from gainrl_ray.config import Config
from gainrl_ray.model.loading import TINY_FOLDER
from gainrl_ray.types import MicroBatch

STAGES = range(4)


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder with a random two-layer Qwen2 with tied embeddings and the built-in tokenizer."""
    return save_small_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def seen(small_model: str, tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[dict[str, Any]]]:
    """What every rank saw, by number of ranks; their files are in the folder named by "folder"."""
    # Two ranks first: one rank tries to load their checkpoints.
    folder = tmp_path_factory.mktemp("zero")
    _save_opt(folder / "opt")
    return {
        ranks: run_ranks("zero_checks.py", ranks, small_model, folder / zero_checks.RANKS_FOLDER.format(ranks))
        for ranks in (2, 1)
    }


@pytest.fixture(scope="module")
def expected(small_model: str) -> dict[str, Any]:
    """The first update by plain torch: all logits at once, autograd, clipping and AdamW written out."""
    return _plain_update(zero_checks.make_config(small_model, 0), small_model)


def _save_opt(folder: Path) -> None:
    """A random OPT, whose blocks hold fc1 and fc2 instead of an MLP, with the built-in tokenizer."""
    from transformers import AutoTokenizer, OPTConfig, OPTForCausalLM

    sizes = {"hidden_size": 32, "ffn_dim": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = OPTConfig(vocab_size=600, max_position_embeddings=128, word_embed_proj_dim=32, **sizes)
    OPTForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(TINY_FOLDER).save_pretrained(folder)


def _plain_update(config: Config, path: str) -> dict[str, Any]:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    (batch,) = zero_checks.make_batches(config, seed=1, ranks=1, tokens=zero_checks.ALL_IN_ONE)
    (micro_batch,) = batch.updates[0]
    loss, logprobs = _plain_loss(model, micro_batch, config.rollout.temperature)
    loss.backward()
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    norm = math.sqrt(sum(float(gradient.double().square().sum()) for gradient in gradients.values()))
    largest = max(float(gradient.abs().max()) for gradient in gradients.values())
    optimizer = config.optimizer
    scale = min(1.0, optimizer.max_grad_norm / norm)
    weights = {}
    for name, weight in model.named_parameters():
        clipped = gradients[name] * scale
        # Adam's first update with bias correction: both moments are the gradient itself. Half the rate: warm-up of 2.
        weights[name] = weight.detach() - 0.5 * optimizer.lr * clipped / (clipped.abs() + optimizer.eps)
    roundings = roundings_in(model)
    return {
        "loss": loss.item(),
        "gradients": gradients,
        "norm": norm,
        "weights": weights,
        "logprobs": logprobs,
        "allowed": {
            "norm": rounding(roundings),
            "logprobs": rounding(roundings, float(logprobs.abs().max())),
            "gradients": rounding(roundings, largest),
            # The slope of the update above is nowhere more than half the rate over eps.
            "weights": 0.5 * optimizer.lr / optimizer.eps * rounding(roundings, largest * scale),
        },
    }


def _plain_loss(model: Any, batch: MicroBatch, temperature: float) -> tuple[torch.Tensor, torch.Tensor]:
    """GRPO's loss at the old policy, sequence by sequence and token by token."""
    terms = []
    found = []
    for row, length in enumerate(batch.lengths.tolist()):
        token_ids = torch.from_numpy(batch.token_ids[row, :length]).unsqueeze(0)
        table = (model(token_ids).logits[0].double() / temperature).log_softmax(dim=-1)
        for place in np.flatnonzero(batch.response_mask[row]).tolist():
            logprob = table[place - 1, token_ids[0, place]]
            generator = float(batch.generator_logprobs[row, place])
            importance = min(math.exp(logprob.item() - generator), 2.0)
            ratio = (logprob - logprob.detach()).exp()
            objective = -importance * ratio * float(batch.advantages[row])
            terms.append(float(batch.token_weights[row, place]) * objective)
            found.append(logprob.detach())
    return torch.stack(terms).sum(), torch.stack(found)


def _assert_close(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name].float(), value.float(), rtol=0, atol=tolerance, msg=name)


def _assert_same(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor]) -> None:
    assert found.keys() == wanted.keys()
    assert [name for name, value in wanted.items() if not torch.equal(found[name], value)] == []


@pytest.mark.parametrize(
    ("ranks", "case"),
    [(ranks, f"stage{stage}") for ranks in (1, 2) for stage in STAGES]
    + [(2, f"{kind}{stage}") for kind in ("offload", "checkpointing") for stage in (2, 3)]
    + [(1, "small")],
)
def test_gradient_and_update_are_those_of_plain_torch(seen: Any, expected: Any, ranks: int, case: str) -> None:
    found, report, allowed = seen[ranks][0][case], seen[ranks][0][case]["report"], expected["allowed"]
    _assert_close(found["gradients"], expected["gradients"], allowed["gradients"])
    assert report["loss"] == pytest.approx(expected["loss"], abs=allowed["logprobs"])
    assert report["grad_norm"] == pytest.approx(expected["norm"], rel=allowed["norm"])
    _assert_close(found["weights"], expected["weights"], allowed["weights"])
    assert report["learning_rate"] == pytest.approx(0.005)
    assert report["skipped_updates"] == 0
    assert report["trained_tokens"] == len(expected["logprobs"])


@pytest.mark.parametrize("stage", STAGES)
def test_weights_before_any_forward_pass_are_those_of_the_folder(seen: Any, small_model: str, stage: int) -> None:
    from safetensors.torch import load_file

    for ranks in (1, 2):
        _assert_same(seen[ranks][0][f"stage{stage}"]["start"], load_file(f"{small_model}/model.safetensors"))
    assert seen[2][1][f"stage{stage}"]["start"] == {}, "weights are gathered for rank 0 alone"


@pytest.mark.parametrize("stage", STAGES)
def test_probe_gives_logprobs_at_temperature_one(seen: Any, expected: Any, small_model: str, stage: int) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(small_model, dtype=torch.float32)
    token_ids = torch.tensor([zero_checks.PROBE])
    with torch.no_grad():
        table = model(token_ids).logits[0].log_softmax(dim=-1)
    wanted = [0.0] + [float(table[place - 1, token]) for place, token in enumerate(zero_checks.PROBE) if place]
    for rank in seen[2]:
        assert rank[f"stage{stage}"]["probe"] == pytest.approx(wanted, abs=expected["allowed"]["logprobs"])


@pytest.mark.parametrize(
    ("ranks", "case"),
    [(1, "stage2")]
    + [(2, f"{kind}{stage}") for kind in ("stage", "bf16_") for stage in STAGES]
    + [(2, f"offload{stage}") for stage in (2, 3)],
)
def test_a_resumed_run_goes_on_exactly(seen: Any, ranks: int, case: str) -> None:
    found = seen[ranks][0][case]
    _assert_same(found["loaded"], found["weights"])
    if "resting" in found:
        _assert_same(found["resting"], found["weights"])
    _assert_same(found["resumed"], found["straight"])
    without_time = [{**found[name], "seconds": {}} for name in ("second", "second_resumed")]
    assert without_time[0] == without_time[1]
    assert found["second"]["learning_rate"] == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("case", "clean"),
    [(f"skip{stage}", f"stage{stage}") for stage in STAGES]
    + [(f"bf16_skip{stage}", f"bf16_{stage}") for stage in STAGES]
    + [(f"offload_skip{stage}", f"offload{stage}") for stage in (2, 3)],
)
def test_a_bad_loss_on_one_rank_skips_the_update_on_all(seen: Any, case: str, clean: str) -> None:
    for rank in seen[2]:
        report = rank[case]["report"]
        assert (report["skipped_updates"], report["trained_tokens"]) == (1, 0)
    found, wanted = seen[2][0][case], seen[2][0][clean]
    _assert_same(found["after"], wanted["start"])
    assert found["second"]["skipped_updates"] == 0
    assert found["second"]["learning_rate"] == pytest.approx(0.005), "the rate follows the step, whatever was skipped"
    _assert_same(found["weights"], wanted["weights"])


@pytest.mark.parametrize("stage", STAGES)
def test_several_updates_and_a_reference_policy(seen: Any, expected: Any, stage: int) -> None:
    wanted, allowed = seen[1][0]["several0"], expected["allowed"]
    for ranks in (1, 2):
        found = seen[ranks][0][f"several{stage}"]
        _assert_same(found["before"], seen[ranks][0][f"stage{stage}"]["start"])
        assert found["idle"]["trained_tokens"] == 0
        _assert_close(found["weights"], wanted["weights"], 4 * allowed["weights"])  # two updates, twice the rate
        for name in ("loss", "kl", "clip_fraction", "entropy", "importance_mean", "mismatch_kl", "grad_norm"):
            assert found["report"][name] == pytest.approx(wanted["report"][name], abs=allowed["logprobs"]), name
        assert found["report"]["kl"] > 0


@pytest.mark.parametrize("stage", STAGES)
def test_angles_are_those_of_the_prompts_before_the_step(seen: Any, small_model: str, stage: int) -> None:
    from gainrl_ray.config import ModelConfig
    from gainrl_ray.model.loading import load_model
    from gainrl_ray.model.prefill import prefill_angles

    model = load_model(ModelConfig(path=small_model, dtype="float32"))
    prompts = [group.group.prompt for group in zero_checks.make_groups(3)]
    scores = prefill_angles(model, prompts, pad_id=0, batch_tokens=4096)
    wanted = {slot: score.c_intra + score.c_inter for slot, score in enumerate(scores)}
    for ranks in (1, 2):
        per_rank = [rank[f"several{stage}"]["report"]["angles"] for rank in seen[ranks]]
        assert sum(map(len, per_rank)) == 4, "each slot is measured by exactly one rank"
        merged = {slot: value for angles in per_rank for slot, value in angles.items()}
        assert merged == pytest.approx(wanted, abs=rounding(roundings_in(model)))


@pytest.mark.parametrize("case", ["stage0", "stage3", "bf16_3"])
def test_the_export_is_the_policy(seen: Any, case: str) -> None:
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = seen[2][0]["folder"] / f"{case}_model"
    _assert_same(load_file(folder / "model.safetensors"), seen[2][0][case]["resumed"])
    model, info = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"]
    assert model.dtype == (torch.bfloat16 if case.startswith("bf16") else torch.float32)
    assert torch.equal(model.lm_head.weight, seen[2][0][case]["resumed"]["model.embed_tokens.weight"])
    assert AutoTokenizer.from_pretrained(folder).encode("2+2") == AutoTokenizer.from_pretrained(TINY_FOLDER).encode(
        "2+2"
    )


def test_an_export_that_cannot_write_keeps_no_rank_waiting(seen: Any) -> None:
    for case in ("stage2", "stage3"):
        assert [rank[case]["refusal"] for rank in seen[2]] == ["FileExistsError", ""]
        assert not (seen[2][0]["folder"] / f"{case}_refused").exists()


def test_a_model_without_signal_layer_is_trained_where_no_angle_is_needed(seen: Any) -> None:
    found = seen[1][0]["no_signal"]
    assert found["report"]["angles"] == {}
    assert found["report"]["skipped_updates"] == 0 and found["report"]["grad_norm"] > 0
    assert "ModelError: OPTForCausalLM has no signal layer" in found["error"]


def test_the_config_decides_that_it_is_the_cpu(seen: Any) -> None:
    """The one rank's process has been told all along that there is a GPU; its figures are compared above."""
    for rank in [*seen[1], *seen[2]]:
        assert rank["modules"] == {"probed": 0, "accelerator": "cpu", "backend": "gloo"}
    assert seen[1][0]["no_gpu"].startswith("ResourceError: learner.gpus_per_worker=1 asks for a CUDA GPU")


def test_no_rank_says_that_its_device_is_free_before_all_are(seen: Any) -> None:
    fast, slow = (rank["slow_rest"] for rank in seen[2])
    assert slow["free"] > fast["free"] + 0.4
    assert fast["said"] >= slow["free"]


def test_nothing_is_printed(seen: Any) -> None:
    for rank in [*seen[1], *seen[2]]:
        lines = [line for line in rank["log"].splitlines() if "OVERFLOW" not in line]
        assert lines == []


@pytest.mark.parametrize(
    ("case", "error"),
    [
        ("ranks", r"ConfigError: .* \(learner\.workers: checkpoint 2, run 1\)"),
        ("stage", r"ConfigError: .* learner\.zero_stage: checkpoint 1, run 2\)"),
        ("nothing", "DataError: .*nowhere holds no learner checkpoint"),
        ("broken", r"DataError: .*optim_states\.pt cannot be read"),
    ],
)
def test_an_unsuitable_checkpoint_is_refused(seen: Any, case: str, error: str) -> None:
    assert re.search(error, seen[1][0]["refusals"][case])


def test_names_are_those_of_checkpoint_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Experts, which transformers merges on loading, leave one by one, as vLLM expects them."""
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM, MixtralConfig, MixtralForCausalLM

    monkeypatch.setenv("DS_ACCELERATOR", "cpu")
    sizes = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    config = MixtralConfig(**sizes, num_attention_heads=2, num_key_value_heads=2, num_local_experts=3)
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    _assert_same(dict(gathered_weights(model, rank=0)), load_file(tmp_path / "model.safetensors"))
    assert list(gathered_weights(model, rank=1)) == []
