import json
import logging
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from tolerances import rounding, roundings_in

from gainrl_ray.config import Config
from gainrl_ray.data.problems import prepare_problems
from gainrl_ray.data.prompts import PromptBuilder
from gainrl_ray.data.scored_index import MANIFEST_FILE, ScoredIndex
from gainrl_ray.errors import DataError, IndexMismatchError
from gainrl_ray.model.loading import load_model, load_tokenizer
from gainrl_ray.model.prefill import prefill_angles
from gainrl_ray.scoring import SCORED, Progress, ensure_order, fingerprint, score, summary
from gainrl_ray.storage import Storage

COUNT = 60


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return Config.model_validate(
        {
            "run": {"storage": f"file://{tmp_path_factory.mktemp('scoring')}"},
            "model": {"path": "tiny", "dtype": "float32"},
            "data": {"train": {"limit": COUNT}},
            "scoring": {"cpus_per_actor": 0.5, "block_rows": 16, "deadline_s": 240.0},
        }
    )


@pytest.fixture(scope="module")
def watched():
    return []


@pytest.fixture(scope="module")
def report(ray_session, config, watched):
    return score(config, say=logging.info, watch=lambda *told: watched.append(told))


def test_a_watcher_is_told_how_far_it_is(report, watched):
    assert ("prepared", COUNT) in watched
    assert watched[-1] == ("scored", COUNT)


def test_the_speed_told_is_that_since_the_last_line(monkeypatch):
    said, clock = [], iter([0.0, 2.0, 10.0, 13.0, 16.0])
    monkeypatch.setattr("gainrl_ray.scoring.time", SimpleNamespace(monotonic=lambda: next(clock)))
    progress = Progress(said.append)
    for rows in (0, 50, 1000, 1100, 1600):
        progress.tell(SCORED, rows, total=2000)
    # 1000 rows in 10 s, nothing told 3 s later, 600 in the next 6 s.
    assert said == ["  1,000 of 2,000 problems scored, 100 a second", "  1,600 of 2,000 problems scored, 100 a second"]


def test_the_index_holds_every_problem_and_the_order_is_by_falling_score(report, config, table):
    model = load_model(config.model)
    scores, allowed = (
        prefill_angles(model, [table.prompt(row) for row in range(COUNT)], 0, 4096),
        rounding(roundings_in(model)),
    )
    expected = np.array([item.c_intra + item.c_inter for item in scores])
    assert (report.scored, len(report.index)) == (COUNT, COUNT)
    by_row = np.argsort(report.index.rows)
    np.testing.assert_allclose(report.index.score[by_row], expected, rtol=0, atol=allowed)
    order = report.index.order(config.scoring)
    assert sorted(order.tolist()) == list(range(COUNT))
    assert np.all(np.diff(expected[order]) <= 2 * allowed)
    assert -1 < report.index.length_correlation < 1


def test_the_parts_are_gone_and_the_summary_says_where_the_index_is(report):
    assert Storage(report.folder).list() == ["manifest.json", "scores.parquet"]
    text = summary(report)
    assert f"{COUNT} problems of arithmetic" in text
    assert "prompts/s" in text
    assert f"{report.index.length_correlation:+.3f}" in text
    assert report.folder in text


def test_a_run_takes_the_order_of_the_index(report, config, table, prompts):
    said = []
    order = ensure_order(config, table, fingerprint(config, table, prompts), said.append)
    assert order.open().tolist() == report.index.order(config.scoring).tolist()
    assert len(said) == 1
    assert f"index of {COUNT} problems found; Spearman with prompt tokens" in said[0]
    assert Storage(report.folder).list() == ["manifest.json", "order-descending.npy", "scores.parquet"]


def test_a_second_run_does_not_read_the_scores(report, config, table, prompts, monkeypatch):
    first = ensure_order(config, table, fingerprint(config, table, prompts)).open().tolist()
    monkeypatch.setattr(ScoredIndex, "load", None)
    said = []
    assert ensure_order(config, table, fingerprint(config, table, prompts), said.append).open().tolist() == first
    correlation = f"Spearman with prompt tokens: {report.index.length_correlation:+.3f}"
    assert said == [f"order of {COUNT} problems found; {correlation}; {report.folder}/order-descending.npy"]


def test_orders_of_other_settings_are_other_files(report, config, table, prompts):
    tree = config.model_dump(mode="json")
    tree["scoring"] |= {"diagonal": False, "descending": False}
    changed = Config.model_validate(tree)
    order = ensure_order(changed, table, fingerprint(changed, table, prompts), signal="angle_residual")
    assert order.name == "order-ascending-without-diagonal-angle_residual.npy"
    assert order.open().tolist() == report.index.order(changed.scoring, "angle_residual").tolist()


def test_a_part_takes_its_order_from_the_whole_datasets_index(report, config, table, prompts):
    rows = np.array([3, 10, 11, 40, 59])
    order = ensure_order(config, table.part(rows), fingerprint(config, table, prompts)).open()
    by_row = report.index.score[np.argsort(report.index.rows)]
    assert order.tolist() == sorted(range(5), key=lambda place: -by_row[rows[place]])


def test_new_scores_have_new_orders(report, config, table, prompts, tmp_path):
    folder = Storage(str(tmp_path))
    folder.write_text("order-descending.npy", "of earlier scores")
    report.index.save(folder)
    assert folder.list() == ["manifest.json", "scores.parquet"]


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("model_digest", {"model": {"path": "other"}}),
        ("tokenizer_digest", {"model": {"path": "other"}}),
        ("template_digest", {"data": {"prompt": {"instruction": " Answer in \\boxed{}."}}}),
        ("dataset_digest", {"data": {"train": {"min_level": 2}}}),
        ("signal_version", {"model": {"dtype": "bfloat16"}}),
    ],
)
def test_the_fingerprint_tells_inputs_apart(field, changes, config, table, prompts, tmp_path):
    tree = config.model_dump(mode="json")
    for section, values in changes.items():
        for name, value in values.items():
            tree[section][name] = (tree[section][name] | value) if isinstance(value, dict) else value
    if tree["model"]["path"] == "other":
        tree["model"]["path"] = str(other_model(config, tmp_path))
    changed = Config.model_validate(tree)
    builder = PromptBuilder(load_tokenizer(changed.model), changed.data.prompt)
    problems = prepare_problems(changed.data.train, prompts=builder, on_bad_row="error", storage=Storage(str(tmp_path)))
    before, after = fingerprint(config, table, prompts), fingerprint(changed, problems, builder)
    assert getattr(before, field) != getattr(after, field)
    assert before.digest != after.digest


def other_model(config, folder):
    """A copy of the built-in model with another weight and another token."""
    model, tokenizer = load_model(config.model), load_tokenizer(config.model)
    model.model.norm.weight.data[0] += 1
    tokenizer.add_tokens(["xyzzy"])
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("key", "value", "error", "message"),
    [
        ("fingerprint.model_digest", "0" * 64, IndexMismatchError, "model_digest: 0{64} here, .* another model"),
        ("fingerprint.dataset_digest", "0" * 64, IndexMismatchError, "dataset_digest: .* made from other problems"),
        ("problems", COUNT - 1, DataError, f"has {COUNT} rows.*its manifest speaks of {COUNT - 1} problems"),
    ],
)
def test_an_index_of_other_inputs_is_refused(key, value, error, message, report, config, table, prompts):
    folder = Storage(report.folder)
    kept = ensure_order(config, table, fingerprint(config, table, prompts))
    original = folder.read_text(MANIFEST_FILE)
    manifest = json.loads(original)
    *sections, name = key.split(".")
    inner = manifest
    for section in sections:
        inner = inner[section]
    inner[name] = value
    folder.write_text(MANIFEST_FILE, json.dumps(manifest))
    try:
        with pytest.raises(IndexMismatchError, match="'here'"):
            ensure_order(config, table, fingerprint(config, table, prompts))
        folder.delete(kept.name)
        with pytest.raises(error, match=f"(?s){message}"):
            ensure_order(config, table, fingerprint(config, table, prompts))
    finally:
        folder.write_text(MANIFEST_FILE, original)


def test_lost_parts_are_noticed(config, table, prompts, tmp_path, monkeypatch):
    monkeypatch.setattr("gainrl_ray.scoring.score_problems", lambda plan, _: lose_parts(plan))
    elsewhere = config.model_copy(update={"run": config.run.model_copy(update={"storage": str(tmp_path)})})
    with pytest.raises(DataError, match=rf"work holds scores of 0 problems, expected {COUNT}: delete that folder"):
        ensure_order(elsewhere, table, fingerprint(elsewhere, table, prompts), logging.info)


def lose_parts(plan):
    return 0


def test_the_job_says_what_is_wrong_in_one_line(capsys, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "jobs"))
    monkeypatch.delitem(sys.modules, "score", raising=False)
    import score as job

    assert job.main(["--scoring.batch_token=3"]) == 2
    message = capsys.readouterr().err
    assert "scoring.batch_token" in message
    assert "scoring.batch_tokens" in message
    assert "Traceback" not in message
