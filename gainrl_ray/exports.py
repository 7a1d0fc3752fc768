"""Whether a run will be able to keep what it trains: its exports and checkpoints, tried and measured at its start."""

from collections.abc import Callable

from gainrl_ray.config import Config
from gainrl_ray.errors import ResourceError
from gainrl_ray.model.export import ExportSizes, rehearse_export
from gainrl_ray.storage import Storage

_GIB = 2**30


def check_exports(config: Config, run: Storage, say: Callable[[str], None]) -> None:
    """Write all that exports hold beside weights once, and a trial file into the run's folder; leaves nothing.

    A disk that the run may fill is told.
    Raises ModelError, ConfigError, DataError or ResourceError for what would fail at the first export.
    """
    sizes = rehearse_export(config)
    run.check_writable()
    free = run.free_bytes
    if free is not None and (line := disk_shortage(sizes, config, free, run.uri)) is not None:
        say(line)


def disk_shortage(sizes: ExportSizes, config: Config, free: int, folder: str) -> str | None:
    """A line for a disk with fewer bytes `free` than the run may write into `folder`; None where they suffice.

    Raises ResourceError when not even one export and one checkpoint fit, which every run writes.
    """
    every, keep = config.checkpoint.export_every, config.checkpoint.keep_last
    exports = 3 + (config.run.steps // every if every else 0)  # model, best, and one that is about to replace another
    needed = exports * sizes.export + (keep + 1) * sizes.checkpoint
    if free >= needed:
        return None
    figures = (
        f"the disk of {folder} has {free / _GIB:.2f} GiB free; an export takes {sizes.export / _GIB:.2f} GiB and a "
        f"checkpoint {sizes.checkpoint / _GIB:.2f} GiB"
    )
    if free < sizes.export + sizes.checkpoint:
        raise ResourceError(f"{figures}, and a run writes at least one of each: make room or set run.storage")
    return (
        f"{figures}, and this run may write {exports} and {keep + 1}, {needed / _GIB:.2f} GiB: make room, lower "
        "checkpoint.keep_last or raise checkpoint.export_every"
    )
