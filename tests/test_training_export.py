"""A model folder as people have them, exports that fail after training, and the command given again."""

import json
import re
import shutil
from itertools import chain
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from whole_runs import settings

from gainrl_ray.config import Config
from gainrl_ray.errors import ConfigError, GainrlError
from gainrl_ray.exports import disk_shortage
from gainrl_ray.metrics import read_metrics
from gainrl_ray.model.export import ExportSizes
from gainrl_ray.model.loading import TINY_FOLDER
from gainrl_ray.storage import Storage

STEPS = 2
NAME = "failing"
# What transformers does not save, and what would change the sampling if an engine took it from here.
GENERATION = {"temperature": 0.6, "top_p": 0.9, "top_k": 3, "repetition_penalty": 1.7}


def other_end(tokenizer) -> int:
    """The token after which the built-in model would end its answer."""
    return tokenizer.convert_tokens_to_ids("}.")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in model with two tokens that end a completion, one of which is the padding too."""
    from transformers import AutoTokenizer

    folder = tmp_path_factory.mktemp("models") / "model"
    shutil.copytree(TINY_FOLDER, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ends = [tokenizer.eos_token_id, other_end(tokenizer)]
    changes = {"generation_config.json": GENERATION | {"eos_token_id": ends, "pad_token_id": ends[0]}}
    changes["tokenizer_config.json"] = {"pad_token": tokenizer.eos_token}
    for name, values in changes.items():
        (folder / name).write_text(json.dumps(json.loads((folder / name).read_text()) | values))
    return folder


@pytest.fixture(scope="module")
def config(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    sections = {"evaluation": {"every": 1, "samples": 0}, "checkpoint": {"every": 1}}
    storage = tmp_path_factory.mktemp("runs")
    made = settings(storage, run={"steps": STEPS}, model={"path": str(model)}, **sections)
    return Config.model_validate(made.model_dump() | {"curriculum": {"name": "uniform"}})  # needs no scoring


def test_exports_that_fail_lose_nothing_and_come_with_the_same_command(
    ray_session: None, config: Config, model: Path
) -> None:
    from gainrl_ray.actors.run import Pipelines
    from gainrl_ray.training import train

    run, pipelines = Path(config.run.storage) / NAME, Pipelines()
    run.mkdir()
    for name in ("model", "best"):
        (run / f".{name}.draft").write_text("a file where a folder is to be")
    lines: list[str] = []
    try:
        with pytest.raises(GainrlError) as caught:
            train(config, NAME, lines.append, pipelines)
        assert sum(line.startswith("step ") for line in lines) == STEPS, "trained once"
        failed = [line for line in lines if line.startswith("EXPORT FAILED")]
        assert failed[-1].startswith(f"EXPORT FAILED: model of step {STEPS} (FileExistsError: ") and len(failed) > 1
        checkpoints = sorted(path.name for path in run.glob("checkpoint_*") if path.is_dir())
        assert f"{run}/{checkpoints[-1]} of step {STEPS} is committed" in str(caught.value)
        assert "give the same command again" in str(caught.value) and not (run / "model").exists()

        for name in ("model", "best"):
            (run / f".{name}.draft").unlink()
        lines.clear()
        train(config, NAME, lines.append, pipelines)
    finally:
        pipelines.close()
    assert not any(line.startswith("step ") for line in lines), "nothing is trained again"
    assert [record["step"] for record in read_metrics(Storage(str(run)))] == list(range(STEPS + 1))
    written, given = ((folder / "generation_config.json").read_text() for folder in (run / "model", model))
    assert {key: json.loads(written)[key] for key in json.loads(given)} == json.loads(given)
    with pytest.raises(ConfigError, match=r"has finished its 2 steps: .*remove its folder model"):
        train(config, NAME, lines.append)


def test_either_token_ends_a_completion_and_is_trained(config: Config, model: Path) -> None:
    """In the run above; what the folder says of sampling has no part in it."""
    from transformers import AutoTokenizer

    tokenizer, run = AutoTokenizer.from_pretrained(model), Path(config.run.storage) / NAME
    ends, longest = {tokenizer.eos_token_id, other_end(tokenizer)}, config.rollout.max_new_tokens
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tables = [pq.read_table(run / f"rollouts/step_{step:06d}.parquet").to_pylist() for step in range(STEPS)]
    seen = set()
    for row in chain(*tables):
        tokens = row["token_ids"]
        assert not ends & set(tokens[:-1]), "nothing comes after an end"
        assert row["finish_reason"] == ("stop" if tokens[-1] in ends else "length")
        assert len(tokens) == longest or tokens[-1] in ends
        seen.add(tokens[-1])
    assert other_end(tokenizer) in seen
    records = read_metrics(Storage(str(run)))[1:]
    for table, record in zip(tables, records, strict=True):
        rewards = {slot: {row["reward"] for row in table if row["slot"] == slot} for slot in range(6)}
        tokens = sum(len(row["token_ids"]) for row in table if len(rewards[row["slot"]]) > 1)
        assert record["trained_tokens"] == tokens > 0, "the last token of each completion is trained, padding is not"
    assert all(abs(record["mismatch_kl"]) < 1e-4 for record in records), "engine and learner sample alike"


GIB = 2**30


@pytest.mark.parametrize(
    ("free", "match"),
    [
        (100 * GIB, None),
        # 3 folders and those of steps 10 and 20 are 25 GiB, 3 checkpoints 75
        (
            99 * GIB,
            r"has 99.00 GiB free; an export takes 5.00 GiB and a checkpoint 25.00 GiB, and this run may write 5 ",
        ),
    ],
)
def test_a_disk_that_a_run_may_fill_is_told(free: int, match: str | None) -> None:
    config = Config.model_validate({"run": {"steps": 29}, "checkpoint": {"keep_last": 2, "export_every": 10}})
    line = disk_shortage(ExportSizes(export=5 * GIB, checkpoint=25 * GIB), config, free, "/runs/a")
    assert line is None if match is None else re.search(match, line or "")
