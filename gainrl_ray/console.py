"""What a person reads in the terminal: one line a step, a table at the end, and a word where something takes long."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

SILENCE_S = 8.0
"""The longest time without a word."""

MANY_UNGRADED = 0.05


@contextmanager
def told(what: str, say: Callable[[str], None]) -> Iterator[None]:
    """Says every SILENCE_S of the block what it is that takes so long, and how long by now."""
    begin, over = time.monotonic(), threading.Event()

    def tell() -> None:
        while not over.wait(SILENCE_S):
            say(f"{what}, {time.monotonic() - begin:.0f} s")

    thread = threading.Thread(target=tell, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def step_line(record: Mapping[str, Any], steps: int) -> str:
    """One step in one line: accuracy, reward, curriculum, groups, KL, speed and where the seconds went."""
    seconds = {name.removeprefix("seconds/"): value for name, value in record.items() if name.startswith("seconds/")}
    total = seconds.pop("total", 0.0)
    parts = " ".join(f"{name} {value:.1f}" for name, value in seconds.items() if value >= 0.05)
    mu = f" | mu {record['curriculum/mu']:.0f}" if record.get("curriculum/mu") is not None else ""
    line = (
        f"step {record['step']:>{len(str(steps))}}/{steps} | accuracy {record['accuracy']:.3f} | "
        f"reward {record['reward']:.3f}{mu}{_groups(record)}{_ungraded(record)} | kl {_number(record.get('kl'))} | "
        f"{record['tokens_per_second']:,.0f} tok/s | {total:.1f} s ({parts})"
    )
    return line + (f"\n{evaluation_line(record)}" if "eval/accuracy" in record else "")


def evaluation_line(record: Mapping[str, Any]) -> str:
    """Held-out figures of one version in one line."""
    extra = [f"{name.removeprefix('eval/')} {value:.3f}" for name, value in record.items() if "avg@" in name]
    return f"  held-out after step {record['step']}: " + ", ".join(
        [f"greedy accuracy {record['eval/accuracy']:.3f}", *extra]
    )


def table(rows: Sequence[tuple[str, str]], title: str) -> str:
    """Two aligned columns under a title."""
    width = max(len(name) for name, _ in rows)
    lines = [title, "-" * len(title)]
    return "\n".join(lines + [f"{name:<{width}}  {value}" for name, value in rows])


def _groups(record: Mapping[str, Any]) -> str:
    """What a group policy came to: groups accepted of those generated, and how many the step lacks."""
    if "accepted_groups" not in record:
        return ""
    missing = record["missing_groups"]
    lacks = f", {missing} missing when the budget was used up" if missing else ""
    return f" | groups {record['accepted_groups']} of {record['generated_groups']}{lacks}"


def _ungraded(record: Mapping[str, Any]) -> str:
    """Completions that the reward function failed on, where they are many."""
    shares = {name: record.get(f"outcome/{name}") or 0.0 for name in ("crash", "timeout")}
    return "".join(f" | {name} {share:.0%} of grades" for name, share in shares.items() if share > MANY_UNGRADED)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
