"""The sampled rollouts as rollouts.js reads them."""

from typing import Any

import numpy as np

from gainrl_ray.report.rollouts import sample, shortened
from gainrl_ray.report.run_data import RunData
from gainrl_ray.types import Outcome


def rollout_table(run: RunData) -> dict[str, Any]:
    """All outcomes, and the sampled groups: step, rank, problem, its rollouts."""
    sampled = sample(run.rollouts)
    rows = np.array(sorted({group[0]["row"] for _, group in sampled}), dtype=np.int64)
    ranks = dict(zip(rows.tolist(), run.ordering.ranks(rows).tolist(), strict=True))
    groups = [
        {
            "step": step,
            "rank": ranks[group[0]["row"]],
            "id": group[0]["problem_id"],
            "version": group[0]["policy_version"],
            "question": shortened(group[0]["question"]),
            "answer": shortened(group[0]["answer"]),
            "correct": sum(row["outcome"] == Outcome.CORRECT for row in group),
            "size": len(group),
            "rollouts": [
                {
                    "sample": row["sample"],
                    "completion": shortened(row["completion"]),
                    "reward": row["reward"],
                    "outcome": row["outcome"],
                    "finish": row["finish_reason"],
                    "tokens": row["tokens"],
                }
                for row in group
            ],
        }
        for step, group in sampled
    ]
    return {"outcomes": [str(outcome) for outcome in Outcome], "groups": groups}
