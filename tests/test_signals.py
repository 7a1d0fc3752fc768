"""Signals of a whole dataset on real engines; one start of vLLM and one pass of Ray Data serve all tests."""

import json
import math
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tolerances import assert_equal_but_for_rounding, rounding, roundings_in

from gainrl_ray.actors.measures import GradientMeasure
from gainrl_ray.actors.scorer import PARTS
from gainrl_ray.algo.angles import spearman
from gainrl_ray.algo.correlations import partial_spearman
from gainrl_ray.algo.projection import sign_matrix
from gainrl_ray.algo.randomness import coordinate_rng
from gainrl_ray.config import Config
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.scored_index import ScoredIndex
from gainrl_ray.data.signal_store import MANIFEST_FILE
from gainrl_ray.diagnosis import DIAGNOSTICS_FILE, diagnose, diagnostics_origin
from gainrl_ray.errors import ConfigError
from gainrl_ray.model.embedding import question_means
from gainrl_ray.model.loading import TINY_FOLDER, load_model, load_tokenizer
from gainrl_ray.scoring import fingerprint
from gainrl_ray.signals import ROLLOUTS, compute_signals, ensure_signal
from gainrl_ray.storage import Storage

COUNT, SAMPLES = 40, 4


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return Config.model_validate(
        {
            "run": {"storage": str(tmp_path_factory.mktemp("signals"))},
            "model": {"path": "tiny", "dtype": "float32"},
            "data": {"train": {"limit": COUNT, "max_level": 3}, "prompt": {"max_tokens": 256}},
            "scoring": {"cpus_per_actor": 0.5, "block_rows": 16, "deadline_s": 240.0},
            "signals": {"samples": SAMPLES, "block_problems": 25, "diagnose_problems": 30, "gradient_side": 8},
            "rollout": {"max_new_tokens": 48, "stall_deadline_s": 60},
            "sync": {"verify_tolerance": 0.001},
        }
    )


@pytest.fixture(scope="module")
def pass_rate(ray_session, config, table, prompts):
    lines = []
    return ensure_signal(config, table, prompts, "pass_rate", lines.append), lines


@pytest.fixture
def in_this_process(monkeypatch):
    """Passes over a dataset run here, block by block; that of gradient_alignment and tests/actors run on Ray Data."""
    for module in ("signals", "scoring"):
        monkeypatch.setattr(f"gainrl_ray.{module}.score_problems", run_pass)


def run_pass(plan, tell):
    problems = pq.read_table(Storage(plan.problems).path, columns=["row", "problem_id", *plan.measure.columns])
    prompts, loaded = PromptBuilder(load_tokenizer(plan.model), plan.prompt), plan.measure.load(load_model(plan.model))
    for start in range(0, len(problems), plan.scoring.block_rows):
        block = problems.slice(start, plan.scoring.block_rows)
        values = plan.measure.values(loaded, plan.measure.prepare(block, prompts), plan.scoring.batch_tokens)
        part = pa.table({"row": block["row"], "problem_id": block["problem_id"], **values})
        plan.work.child(PARTS).write_table(f"{start}.parquet", part)
    return len(problems)


def changed(config, **signals):
    return config.model_copy(update={"signals": config.signals.model_copy(update=signals)})


def rollouts(stored):
    folder = stored.folder.child(ROLLOUTS)
    return [row for name in folder.list() for row in folder.read_table(name).to_pylist()]


def test_pass_rates_are_those_of_the_stored_completions(pass_rate, table, config):
    stored, lines = pass_rate
    rows = sorted(rollouts(stored), key=lambda row: row["row"])
    assert [row["problem_id"] for row in rows] == list(table.ids)
    tokenizer = load_tokenizer(config.model)
    for row, rate in zip(rows, stored.open(), strict=True):
        assert len(row["completions"]) == len(row["rewards"]) == SAMPLES
        boxed = f"\\boxed{{{table.problem(row['row']).answer}}}"
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in row["completions"]]
        assert rate == sum(text.rstrip().endswith(boxed + ".") for text in texts) / SAMPLES
    assert 0 < stored.open().mean() < 1
    assert any("engine" in line and "cluster" in line for line in lines), "what it asks of the cluster is told first"


def test_a_signal_that_is_there_is_found(pass_rate, config, table, prompts):
    stored, _ = pass_rate
    lines = []
    assert ensure_signal(config, table, prompts, "pass_rate", lines.append).folder.uri == stored.folder.uri
    assert lines == [f"pass_rate of {COUNT} problems found; {stored.folder.uri}"]


def test_finished_blocks_are_not_sampled_again(pass_rate, config, table, prompts, monkeypatch):
    stored, _ = pass_rate
    values = np.array(stored.open())
    assert len(stored.folder.list(ROLLOUTS)) == 2
    stored.folder.delete(MANIFEST_FILE)
    monkeypatch.setattr("gainrl_ray.actors.evaluator.RolloutPool", None)  # no engine can start
    np.testing.assert_array_equal(ensure_signal(config, table, prompts, "pass_rate").open(), values)


def test_alignment_is_that_of_the_stored_completions_projected_gradients(pass_rate, config, table, prompts, tmp_path):
    found = ensure_signal(config, table, prompts, "gradient_alignment").open()
    measure = GradientMeasure(blocks=1, side=8, loss=config.loss, temperature=1.0, max_new_tokens=48, pack_tokens=0)
    rows = pa.Table.from_pylist(sorted(rollouts(pass_rate[0]), key=lambda row: row["row"]))
    model = load_model(config.model)
    gradients = measure.values(measure.load(model), measure.prepare(rows, prompts), 4096)["value"]
    rates = pass_rate[0].open()
    expected = np.zeros(COUNT)
    vectors = [np.array(gradient, dtype=np.float64) for gradient in gradients.to_pylist()]
    for i in range(COUNT):
        for j in range(COUNT):
            if 0 < rates[i] < 1 and 0 < rates[j] < 1:
                cosine = vectors[i] @ vectors[j] / (np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j]))
                expected[i] += rates[i] * (1 - rates[i]) * rates[j] * (1 - rates[j]) * cosine / COUNT
    # Means of cosines between gradients, weighted with at most 1/16.
    np.testing.assert_allclose(found, expected, rtol=0, atol=rounding(roundings_in(model), 1 / 16))
    assert np.all(found[(rates == 0) | (rates == 1)] == 0)
    assert np.any(found > 0)
    lines = []
    warm = shutil.copytree(TINY_FOLDER, tmp_path / "warm")  # the same weights under another name
    again = ensure_signal(changed(config, warm_model=str(warm)), table, prompts, "gradient_alignment", lines.append)
    np.testing.assert_array_equal(again.open(), found)
    assert lines == [f"gradient_alignment of {COUNT} problems found; {again.folder.uri}"]


def test_likelihoods_and_embeddings_are_those_of_plain_forwards(ray_session, in_this_process, config, table, prompts):
    lines = []
    text = compute_signals(config, ("gold_likelihood", "embedding"), lines.append)
    model, rows = load_model(config.model), range(COUNT)
    embedding = ensure_signal(config, table, prompts, "embedding", lines.append)
    means = question_means(model, [table.prompt(row) for row in rows], 4096).numpy()
    signs = sign_matrix(means.shape[1], 64, 0, "embedding")
    projected = torch.from_numpy(np.array(embedding.open()))
    assert_equal_but_for_rounding(projected, torch.from_numpy(means @ signs), roundings_in(model))
    gold = ensure_signal(config, table, prompts, "gold_likelihood", lines.append)
    tokenizer = load_tokenizer(config.model)
    for row in (0, 7, COUNT - 1):
        prompt, answer = table.prompt(row).token_ids, table.problem(row).answer
        before = tokenizer("The answer is \\boxed{")["input_ids"]
        after = tokenizer(answer)["input_ids"]
        with torch.no_grad():
            logprobs = model(torch.tensor([[*prompt, *before, *after]])).logits[0].log_softmax(-1)
        start = len(prompt) + len(before)
        picked = [float(logprobs[start + place - 1, token]) for place, token in enumerate(after)]
        allowed = rounding(roundings_in(model), -min(picked))
        assert gold.open()[row] == pytest.approx(math.exp(sum(picked) / len(picked)), rel=allowed)
    assert gold.folder.child(gold.name).uri in text
    assert f"embedding of {COUNT} problems found; {embedding.folder.uri}" in lines


def test_the_diagnosis_compares_a_sample_with_what_was_measured(pass_rate, in_this_process, config, table, prompts):
    lines = []
    diagnose(config, lines.append)
    folder = diagnostics_origin(config, table, prompts).folder(Storage(config.run.storage))
    document = json.loads(folder.read_text(DIAGNOSTICS_FILE))
    entries = {(entry["signal"], entry["against"]): entry for entry in document["signals"]}
    assert {"angle", "angle_residual", "c_intra", "c_inter", "prompt_tokens"} <= {signal for signal, _ in entries}
    assert {against for _, against in entries} == {"prompt_tokens", "difficulty_label", "pass_rate", "gradient_norm"}
    assert {entry["problems"] for entry in entries.values()} == {30}
    drawn = coordinate_rng(0, "diagnose").choice(COUNT, 30, replace=False)
    rates, tokens = pass_rate[0].open()[drawn], table.columns["prompt_tokens"].to_numpy()[drawn]
    levels = np.array([int(table.problem(int(row)).source[-1]) for row in drawn])
    entry = entries["prompt_tokens", "pass_rate"]
    assert entry["spearman"] == pytest.approx(spearman(tokens, rates))
    assert entry["low"] < entry["spearman"] < entry["high"]
    assert entries["prompt_tokens", "difficulty_label"]["spearman"] == pytest.approx(spearman(tokens, levels))
    scores = ScoredIndex.load(Storage(config.run.storage).child("indexes", fingerprint(config, table, prompts).digest))
    angle = dict(zip(scores.rows.tolist(), scores.score.tolist(), strict=True))
    angles = np.array([angle[int(row)] for row in drawn])
    expected = partial_spearman(angles, rates, tokens)
    assert entries["angle", "pass_rate"]["partial"] == pytest.approx(expected, abs=1e-6)
    # A gradient of zero where all completions are right or all are wrong: the norm tells p (1 - p) from 0.
    assert entries["angle", "gradient_norm"]["spearman"] is not None
    assert any("Angle concentration" in line and folder.uri in line for line in lines)


def test_a_warm_model_with_other_prompts_is_refused(config, table, prompts, tmp_path):
    shutil.copytree(TINY_FOLDER, tmp_path / "warm")
    template = tmp_path / "warm" / "chat_template.jinja"
    template.write_text("Hello. " + template.read_text())
    with pytest.raises(ConfigError, match=r"warm_model '.*warm' has another tokenizer or chat template.*trained from"):
        ensure_signal(changed(config, warm_model=str(tmp_path / "warm")), table, prompts, "gradient_alignment")
