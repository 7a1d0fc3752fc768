"""Engines that serve a model folder, without training: for evaluation, and for completions of a dataset's problems."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import pyarrow as pa
import ray

from gainrl_ray.actors.contents import contents
from gainrl_ray.actors.generation import Generator
from gainrl_ray.actors.pool import RolloutPool
from gainrl_ray.actors.remote import Remote
from gainrl_ray.actors.transport import StoreSender
from gainrl_ray.actors.weights import Probe, WeightStoreActor
from gainrl_ray.config import Config, LoraConfig
from gainrl_ray.data.problems import ProblemTable
from gainrl_ray.errors import DeadlineError
from gainrl_ray.model.loading import load_model, weights_as_on_disk
from gainrl_ray.model.policy import PolicyModel
from gainrl_ray.model.probing import probe
from gainrl_ray.storage import Storage
from gainrl_ray.types import Outcome


def evaluate_model(config: Config, heldout: ProblemTable) -> dict[str, float]:
    """The held-out figures of `config.model`, see Generator.evaluate."""
    with _serving(config, heldout) as generator:
        return generator.evaluate(heldout, 0)


def sample_problems(
    config: Config,
    table: ProblemTable,
    rows: Sequence[int],
    folder: Storage,
    *,
    begin: Callable[[int], None],
    tell: Callable[[int], None],
) -> pa.Table:
    """`signals.samples` graded completions of `config.model` for each of `rows`, by rising row.

    Columns: row, problem_id, question, completions (lists of token ids), is_whole (ended by the model itself), rewards,
    accuracy (share graded correct). Blocks of `signals.block_problems` are kept in `folder`, and those that are there
    are not sampled again. `begin` is given the number of problems left to sample, where there are any, before engines
    start; `tell` the number of those sampled so far, block by block.

    Raises:
        DeadlineError: it took longer than `signals.deadline_s`; finished blocks are kept.
    """
    size, rows, started = config.signals.block_problems, sorted(rows), time.monotonic()
    blocks = {f"{rows[start]}-{size}.parquet": rows[start : start + size] for start in range(0, len(rows), size)}
    missing = sorted(set(blocks) - set(folder.list()), key=lambda name: blocks[name][0])
    if missing:
        begin(sum(len(blocks[name]) for name in missing))
        done = 0
        with _serving(config, table) as generator:
            for place, name in enumerate(missing):
                if time.monotonic() - started > config.signals.deadline_s:
                    raise DeadlineError(
                        f"sampling did not finish within signals.deadline_s = {config.signals.deadline_s:g} s: "
                        f"{len(missing) - place} of {len(blocks)} blocks of {size} problems are missing; finished ones "
                        "are kept, the same command continues"
                    )
                folder.write_table(name, _sampled(generator, table, blocks[name], config.signals.samples))
                done += len(blocks[name])
                tell(done)
    return pa.concat_tables(folder.read_table(name) for name in blocks)


def _sampled(generator: Generator, table: ProblemTable, rows: Sequence[int], samples: int) -> pa.Table:
    """One block, as `sample_problems` describes it."""
    problems, found = [table.problem(row) for row in rows], generator.sample(table, rows, samples, 0)
    correct = [[grade.outcome is Outcome.CORRECT for grade in grades] for _, grades in found]
    return pa.table(
        {
            "row": pa.array(rows, pa.int64()),
            "problem_id": [problem.id for problem in problems],
            "question": [problem.question for problem in problems],
            "turns": [problem.turns for problem in problems],
            "completions": pa.array(
                [[c.token_ids for c in group] for group, _ in found], pa.list_(pa.list_(pa.int32()))
            ),
            "is_whole": [[c.finish_reason == "stop" for c in group] for group, _ in found],
            "rewards": pa.array([[grade.reward for grade in grades] for _, grades in found], pa.list_(pa.float64())),
            "accuracy": pa.array([sum(hits) / samples for hits in correct], pa.float64()),
        }
    )


@contextmanager
def _serving(config: Config, table: ProblemTable) -> Iterator[Generator]:
    """A generator whose engines serve `config.model` as version 0; the engines end with the block.

    The weights reach the engines by the way that training uses, and are verified there, by the first problem's prompt.
    """
    config = config.model_copy(update={"lora": LoraConfig()})  # the folder's weights are whole
    store = WeightStoreActor.remote()
    generator = Generator(config, RolloutPool(config))
    generator.use_store(store)
    try:
        _publish(config, Remote(store, "weight store", config.sync.deadline_s), table.prompt(0).token_ids)
        generator.start()
        generator.sync(0)
        yield generator
    finally:
        generator.close()
        ray.kill(store)


def _publish(config: Config, store: Remote, probe_tokens: tuple[int, ...]) -> None:
    """Bring the model's weights into the store as version 0, with a probe to verify the engines by."""
    model = load_model(config.model.on_cpu, sequence_tokens=config.sequence_tokens)
    policy = PolicyModel(model)
    logprobs, rounded = probe(policy, policy, probe_tokens)
    sync = config.sync
    sender = StoreSender(store, bucket_bytes=int(sync.bucket_mib * 2**20), deadline_s=sync.deadline_s)
    known = Probe(token_ids=probe_tokens, logprobs=logprobs, rounded=rounded, contents=contents(model.parameters()))
    sender.send(0, 0, weights_as_on_disk(model), known)
