"""Which files of a folder are a split, as the `datasets` library has it: by their names and the README's metadata."""

import os
import re
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from gainrl_ray.config import SourceConfig
from gainrl_ray.errors import DataError

README = "README.md"
_SAVED = ("state.json", "dataset_dict.json")  # of a dataset, and of several splits


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` of the `datasets` library wrote this folder."""
    return any((folder / name).is_file() for name in _SAVED)


def refuse_loops(folder: str) -> None:
    """Raise DataError for a link below a local folder to one that is read already, whose rows would count again."""
    seen: dict[str, str] = {}
    for below, _, _ in os.walk(folder, followlinks=True):
        real = os.path.realpath(below)
        if real in seen:
            raise DataError(f"{below} leads to {seen[real]}, whose rows would be read again: remove the link")
        seen[real] = below


def files_of_split(
    names: Iterable[str], readme: Callable[[], str], config: SourceConfig
) -> tuple[list[str], list[str]]:
    """Those of a folder's files, relative names, that the config's subset and split consist of, and those of no split.

    The library looks at a copy of the folder's names: a path may hold what it takes for a pattern, or be remote.

    Raises:
        DataError: nothing is found, or the subset or the split has to be named, or is not there.
    """
    names = list(names)
    about = readme() if README in names else ""
    with tempfile.TemporaryDirectory(prefix="gainrl-") as base:
        root, originals = Path(base, "folder"), {}
        root.mkdir()
        for name in names:
            copy = root / re.sub(r"(\.\w+){1,2}$", lambda suffixes: suffixes[0].lower(), name)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(about if name == README and about.startswith("---") else "", encoding="utf-8")
            originals[str(copy.resolve())] = name
        splits = _splits(root, config, f"{base}/cache")
    split = chosen_split(config, list(splits), f"folder {config.path!r}")
    by_split = {name: sorted(originals[os.path.realpath(copy)] for copy in copies) for name, copies in splits.items()}
    found = by_split[split]
    folders = {str(PurePosixPath(name).parent) for name in found if split in PurePosixPath(name).name}
    if len(folders) > 1 and "data_files:" not in about:
        raise DataError(
            f"folder {config.path!r} has {split} files in {', '.join(sorted(folders))}, and no README.md that says "
            "what belongs together: give the path of one of these"
        )
    return found, sorted(set(names).difference(*by_split.values()) - {README})


def refuse_subset(config: SourceConfig) -> None:
    """Raise DataError for a subset of what has none."""
    if config.subset is not None:
        raise DataError(f"subset {config.subset!r} of {config.path!r}, which has none: leave subset out (null)")


def chosen_split(config: SourceConfig, splits: list[str], where: str) -> str:
    """The split that is named, else the usual one, else all of what is not divided (`train`, as the library has it).

    Raises: DataError when it is not there.
    """
    wanted = [config.split] if config.split is not None else config.usual_splits
    found = next((split for split in wanted if split in splits), None)
    if found is None and config.split is None and splits == ["train"]:
        return "train"
    if found is None:
        raise DataError(
            f"{where} has no split {' or '.join(map(repr, wanted))}; it has {', '.join(map(repr, splits)) or 'none'}: "
            "set data.train.split or data.heldout.split to one of these, or to null"
        )
    return found


def _splits(root: Path, config: SourceConfig, cache: str) -> dict[str, list[str]]:
    """Split -> files, below the copy `root` of a folder."""
    import datasets

    try:
        builder = datasets.load_dataset_builder(str(root), config.subset, cache_dir=cache)
        return {str(split): list(files) for split, files in (builder.config.data_files or {}).items()}
    except Exception as error:  # the library raises what it meets: metadata, no data, an unknown subset
        lines = str(error).replace(str(root), config.path).strip().splitlines()
        raise DataError(
            f"folder {config.path!r} (subset {config.subset!r}) is no dataset: {' '.join(lines[:2])}; name a subset "
            "that its README.md has, or none where it has none, or give the path of one file"
        ) from error
