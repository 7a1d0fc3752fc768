"""Graded groups as an Arrow table, and back: the format of rollouts/step_*.parquet and of pending groups."""

from collections.abc import Callable, Sequence

import pyarrow as pa

from gainrl_ray.types import Completion, Grade, GradedGroup, Outcome, Problem, Prompt, RolloutGroup

SCHEMA = pa.schema(
    [
        ("step", pa.int64()),
        ("slot", pa.int32()),
        ("sample", pa.int32()),
        ("row", pa.int64()),
        ("problem_id", pa.string()),
        ("question", pa.string()),
        ("answer", pa.string()),
        ("completion", pa.string()),
        ("reward", pa.float64()),
        ("outcome", pa.string()),
        ("finish_reason", pa.string()),
        ("policy_version", pa.int64()),
        ("token_ids", pa.list_(pa.int32())),
        ("logprobs", pa.list_(pa.float64())),
    ]
)


def groups_to_table(step: int, groups: Sequence[GradedGroup]) -> pa.Table:
    """One row per completion, in slot and sample order."""
    rows = [
        {
            "step": step,
            "slot": graded.group.slot,
            "sample": sample,
            "row": graded.group.row,
            "problem_id": graded.group.problem.id,
            "question": graded.group.problem.question,
            "answer": graded.group.problem.answer,
            "completion": completion.text,
            "reward": grade.reward,
            "outcome": str(grade.outcome),
            "finish_reason": completion.finish_reason,
            "policy_version": graded.group.policy_version,
            "token_ids": completion.token_ids,
            "logprobs": completion.logprobs,
        }
        for graded in groups
        for sample, (completion, grade) in enumerate(zip(graded.group.completions, graded.grades, strict=True))
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def table_to_groups(
    table: pa.Table, problem: Callable[[int], Problem], prompt: Callable[[int], Prompt]
) -> dict[int, tuple[GradedGroup, ...]]:
    """Step -> its graded groups in slot order, the inverse of `groups_to_table`.

    `problem` and `prompt` give the problem and the prompt of a dataset row.
    """
    rows: dict[tuple[int, int], list[dict]] = {}
    for row in table.to_pylist():
        rows.setdefault((row["step"], row["slot"]), []).append(row)
    groups: dict[int, list[GradedGroup]] = {}
    for (step, slot), samples in sorted(rows.items()):
        samples.sort(key=lambda row: row["sample"])
        group = RolloutGroup(
            slot=slot,
            row=samples[0]["row"],
            problem=problem(samples[0]["row"]),
            prompt=prompt(samples[0]["row"]),
            completions=tuple(
                Completion(
                    token_ids=tuple(row["token_ids"]),
                    logprobs=tuple(row["logprobs"]),
                    finish_reason=row["finish_reason"],
                    text=row["completion"],
                )
                for row in samples
            ),
            policy_version=samples[0]["policy_version"],
        )
        grades = tuple(Grade(outcome=Outcome(row["outcome"]), reward=row["reward"]) for row in samples)
        groups.setdefault(step, []).append(GradedGroup(group=group, grades=grades))
    return {step: tuple(graded) for step, graded in groups.items()}
