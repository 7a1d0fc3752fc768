"""Plans as a person reads them in the terminal."""

import textwrap
from collections.abc import Sequence

from gainrl_ray.planning.cluster import GIB, Cluster
from gainrl_ray.planning.costs import Assumptions
from gainrl_ray.planning.measured import PARALLEL_SHARE, PREFILL_OF_DECODE, Fit
from gainrl_ray.planning.prediction import Prediction
from gainrl_ray.planning.shape import ModelShape
from gainrl_ray.planning.workload import Lengths

WITHIN = 0.25
"""Relative error of a step's seconds that a prediction is held to."""


def heading(shape: ModelShape, lengths: Lengths, cluster: Cluster | None) -> str:
    """What is planned: the model, the lengths, the hardware."""
    source = "measured" if lengths.groups else "assumed unless given"
    lines = [
        f"model: {shape.parameters:,} weights, {shape.layers} layers of {shape.hidden}",
        f"lengths ({source}): prompts {lengths.prompt:.0f} tokens, completions {lengths.mean:.0f} +- "
        f"{lengths.spread * lengths.mean:.0f}, {lengths.informative:.0%} of groups trained",
    ]
    if cluster is not None:
        device = cluster.device
        lines.append(
            f"{device.name}: {device.memory_gib:g} GiB, {device.tflops:g} TFLOP/s, {device.memory_gbs:g} GB/s memory, "
            f"{device.peer_gbs:g} GB/s to peers, {device.node_gbs:g} GB/s between nodes of {device.per_node}\n"
            f"  ({device.source})"
        )
    return "\n".join(lines)


def assumptions_text(assumed: Assumptions) -> str:
    """Every assumption with its value; `--assume NAME=VALUE` changes one."""
    rows = [
        (name, f"{getattr(assumed, name):g}", field.description or "")
        for name, field in Assumptions.model_fields.items()
    ]
    return "what no datasheet tells (--assume NAME=VALUE):\n" + _aligned(rows)


def splits_text(cluster: Cluster, named: Sequence[tuple[str, Prediction]]) -> str:
    """A table of splits: GPUs of each side, memory, seconds of a step's parts, steps an hour."""
    header = (
        *("", "GPUs", "engines x TP", "learners", "ZeRO", "learner GiB", "seqs/engine"),
        *("generate s", "train s", "sync s", "eval s", "step s", "steps/h"),
    )
    rows: list[Sequence[str]] = [header]
    for name, found in named:
        rollout, learner = found.config.rollout, found.config.learner
        learners = f"{learner.workers}{' share' if rollout.colocated else ''}"
        row = (
            *(name, str(found.gpus), f"{rollout.engines} x {rollout.tensor_parallel_size}", learners),
            *(str(learner.zero_stage), f"{found.learner.peak / GIB:.1f}", f"{_sequences(found)}"),
        )
        step = found.step if found.times else None
        times = (step.generate, step.train, step.sync, step.evaluate, step.total) if step else ()
        speed = f"{found.steps_per_hour:.1f}" if step else "does not fit"
        rows.append((*row, *([f"{value:.1f}" for value in times] or ["-"] * 5), speed))
    reasons = [f"{name}: {reason}" for name, found in named for reason in found.shortages]
    reasons = [textwrap.fill(reason, 120, subsequent_indent="  ") for reason in reasons]
    unit = ("GPU" if cluster.device.is_gpu else "core") + "s" * (cluster.count > 1)
    return "\n".join([f"{cluster.count} {unit}", _aligned(rows, right=True), *reasons])


def detail_text(found: Prediction) -> str:
    """Where the memory and the sync of one split go."""
    memory, engine, sync = found.learner, found.engine, found.sync
    rows = [(name, f"{size / GIB:.3g}", "held") for name, size in memory.held.items()]
    rows += [(name, f"{size / GIB:.3g}", "forward and backward") for name, size in memory.training.items()]
    rows += [(name, f"{size / GIB:.3g}", "optimizer step") for name, size in memory.stepping.items()]
    rows += [
        ("peak", f"{memory.peak / GIB:.3g}", "held + the larger of the two"),
        ("host", f"{memory.host / GIB:.3g}", ""),
    ]
    engine_rows = [
        ("weights", f"{engine.weights / GIB:.3g}", "GiB"),
        ("working", f"{engine.working / GIB:.3g}", "GiB"),
        (
            "cache",
            f"{engine.cache / GIB:.3g}",
            f"GiB: {engine.cached_tokens:,} tokens of {engine.token / 1024:.1f} KiB",
        ),
        ("fits", f"{engine.cached_tokens // engine.longest}", f"sequences of {engine.longest:,} tokens"),
    ]
    names = ("gather_s", "to_host_s", "pack_s", "put_s", "pull_s", "load_s")
    stages = [(name.removesuffix("_s").replace("_", " "), f"{getattr(sync, name):.2f}", "s") for name in names]
    return "\n".join(
        [
            "a learner's device, GiB",
            _aligned(rows),
            "an engine's GPU",
            _aligned(engine_rows),
            "sync of one version, stage by stage",
            _aligned(stages),
        ]
    )


def fit_text(fitted: Fit) -> str:
    """What a measured run gave."""
    rows = [
        (
            "decode step",
            f"{1e3 * fitted.decode.fixed_s:.3g}",
            f"ms + {1e3 * fitted.decode.sequence_s:.3g} ms x sequences",
        ),
        (
            "prompt token",
            f"{1e3 * fitted.decode.prefill_s:.3g}",
            f"ms (assumed: {PREFILL_OF_DECODE:g} of a sequence's)",
        ),
        ("training", f"{1e3 * fitted.line_s:.3g}", f"ms a token of a learner + {fitted.update_s:.2f} s an update"),
        ("sync", f"{fitted.sync_s:.2f}", "s"),
        ("grade", f"{fitted.grade_s:.2f}", "s after the last completion"),
        ("rest", f"{fitted.rest_s:.2f}", "s of a step"),
    ]
    shares = ", ".join(f"{share:g} of {part}s" for part, share in PARALLEL_SHARE.items())
    return f"measured parts (work that threads divide: {shares}, assumed)\n" + _aligned(rows)


def comparison_text(name: str, pairs: Sequence[tuple[str, float, float]]) -> str:
    """Predicted beside measured seconds, and whether the whole step is within the limit."""
    rows = [("", "predicted", "measured", "error")]
    rows += [
        (part, f"{predicted:.2f} s", f"{found:.2f} s", f"{predicted / found - 1:+.0%}" if found >= 0.05 else "-")
        for part, predicted, found in pairs
    ]
    _, predicted, found = pairs[0]
    verdict = "within" if abs(predicted / found - 1) <= WITHIN else "NOT within"
    return f"{name}: a step is {verdict} {WITHIN:.0%}\n" + _aligned(rows, right=True)


def _sequences(found: Prediction) -> int:
    """Sequences of full length that an engine's cache holds, up to max_num_seqs."""
    return min(found.config.rollout.max_num_seqs, found.engine.cached_tokens // found.engine.longest)


def _aligned(rows: Sequence[Sequence[str]], *, right: bool = False) -> str:
    """Columns two spaces apart: the first to the left, the second (or with `right` all others) to the right."""
    count = max(map(len, rows))
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(count)]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(width) if (column and right) or column == 1 else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=False))
        ]
        lines.append("  " + "  ".join(cells).rstrip())
    return "\n".join(lines)
