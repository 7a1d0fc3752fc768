"""The house keeps its order: which way imports go, who may import what, what stands where."""

import ast
import fnmatch
import graphlib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "gainrl_ray"

LAYERS = (
    {
        *("types", "config", "config_node", "config_curricula", "config_groups", "config_signals"),
        *(
            "config_fields",
            "config_layers",
            "cli",
            "scoring_options",
            "errors",
            "storage",
            "environment",
            "devices",
            "processor",
            "user_code",
        ),
    },
    {"algo", "curricula"},
    {"data", "rewards", "model", "metrics", "checkpoint", "console", "run_record"},
    {"actors"},
    {
        *("scoring", "signals", "diagnosis", "selection_inputs", "training", "exports", "evaluation"),
        *("comparing", "comparison"),
        "placement",
        "report",
    },
    {"benchmarks", "planning"},
)
"""A room is a module or folder of the package; it imports from its own layer and from those above in this list."""

ENGINES = {"ray", "vllm", "deepspeed"}
LOADED_BY_VLLM = {PACKAGE / "actors" / name for name in ("vllm_transfer.py", "vllm_reading.py")}
"""One subclasses a vLLM class and is imported by vLLM itself only, which then imports the other."""
RUN_BY_ANOTHER_PYTHON = PACKAGE / "benchmarks" / "trl_peer.py"
TRANSFORMERS_ROOMS = {"model", "actors"}
PURE_ROOMS = ("algo", "curricula")
PURE_IMPORTS = {
    *("numpy", "torch", "gainrl_ray", "abc", "base64", "bisect", "collections", "dataclasses"),
    *("enum", "functools", "hashlib", "inspect", "itertools", "json", "math", "operator", "types", "typing"),
}
GLOBAL_RANDOMNESS = {"random", "rand", "randn", "randint", "randperm", "choice", "shuffle", "permutation", "normal"}
LONGEST_FILE, LONGEST_JOB = 300, 60


def _files(*rooms: str) -> list[Path]:
    folders = [PACKAGE / room for room in rooms] if rooms else [PACKAGE]
    return sorted(path for folder in folders for path in folder.rglob("*.py"))


def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), str(path))


def _imported(node: ast.AST) -> Iterator[str]:
    """Full names of the modules that statements under `node` import."""
    for statement in ast.walk(node):
        if isinstance(statement, ast.Import):
            yield from (alias.name for alias in statement.names)
        elif isinstance(statement, ast.ImportFrom):
            assert statement.level == 0, "relative imports are not used here"
            yield from (f"{statement.module}.{alias.name}" for alias in statement.names)


def _at_import(tree: ast.Module) -> Iterator[str]:
    """What is imported when the module itself is: everything outside functions and `if TYPE_CHECKING`."""
    for node in tree.body:
        typing_only = isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        if not typing_only and not isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield from _imported(node)


def _room(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def _rooms_imported(path: Path) -> set[str]:
    names = (name.split(".") for name in _imported(_tree(path)))
    return {parts[1] for parts in names if parts[0] == "gainrl_ray" and len(parts) > 1} - {_room(path)}


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT))


FILES = [path for path in _files() if path != PACKAGE / "__init__.py"]
assert FILES


def test_every_room_has_its_layer() -> None:
    known = set().union(*LAYERS)
    assert {_room(path) for path in FILES} <= known, "a new room needs a place in LAYERS"


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_imports_go_downwards_only(path: Path) -> None:
    level = next(i for i, rooms in enumerate(LAYERS) if _room(path) in rooms)
    allowed = set().union(*LAYERS[: level + 1])
    assert _rooms_imported(path) <= allowed


def test_no_two_rooms_need_each_other() -> None:
    graph: dict[str, set[str]] = {}
    for path in FILES:
        graph.setdefault(_room(path), set()).update(_rooms_imported(path))
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError, which names the rooms


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_only_actors_import_the_engines(path: Path) -> None:
    tree = _tree(path)
    packages = {name.split(".")[0] for name in _imported(tree)}
    if _room(path) != "actors":
        assert not packages & ENGINES
    elif path not in LOADED_BY_VLLM:
        # They take seconds to import, and starting vLLM's import in a driver sets its process up for CUDA.
        assert not {name.split(".")[0] for name in _at_import(tree)} & {"vllm", "deepspeed"}
    if _room(path) not in TRANSFORMERS_ROOMS and path != RUN_BY_ANOTHER_PYTHON:
        assert "transformers" not in packages


@pytest.mark.parametrize("path", _files(*PURE_ROOMS), ids=_name)
def test_the_mathematics_is_pure(path: Path) -> None:
    tree = _tree(path)
    assert {name.split(".")[0] for name in _imported(tree)} <= PURE_IMPORTS
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        called = ast.unparse(call.func)
        assert called not in {"open", "print", "input"}, f"{path.name} calls {called}"
        owner, _, function = called.rpartition(".")
        assert not (owner in {"np.random", "torch"} and function in {*GLOBAL_RANDOMNESS, "seed", "manual_seed"})
        assert called != "np.random.default_rng" or call.args


@pytest.mark.parametrize("path", FILES, ids=_name)
def test_nothing_untrusted_is_unpickled(path: Path) -> None:
    tree = _tree(path)
    unpicklers = {"pickle.load", "pickle.loads", "pickle.Unpickler"}
    packages = {name.split(".")[0] for name in _imported(tree)}
    assert not packages & {"cloudpickle", "dill", "joblib", "shelve", "marshal"}
    assert not unpicklers & set(_imported(tree))
    assert not unpicklers & {ast.unparse(node) for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
    for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        if ast.unparse(call.func) == "torch.load":
            assert given.get("weights_only") == "True"
        assert given.get("allow_pickle") != "True"


@pytest.mark.parametrize("path", [*FILES, *sorted((ROOT / "jobs").glob("*.py"))], ids=_name)
def test_files_are_short_or_say_why_not(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    about = ast.get_docstring(_tree(path))
    assert about, "every module says what it is for"
    assert lines <= LONGEST_FILE or "size limit" in about
    assert path.parent.name != "jobs" or lines <= LONGEST_JOB or path.name in {"pretrain_tiny.py", "benchmark.py"}


def test_nothing_else_stands_at_the_top_level() -> None:
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().splitlines()]
    found = {path.name for path in ROOT.iterdir() if not path.name.startswith(".")}
    extra = {name for name in found if not any(fnmatch.fnmatch(name, pattern) for pattern in ignored)}
    assert extra <= {"gainrl_ray", "jobs", "cluster", "tests", "pyproject.toml", "README.md", "LICENSE"}
    assert not list((ROOT / "cluster").rglob("*.py"))


def test_every_pure_module_has_its_tests() -> None:
    for path in _files(*PURE_ROOMS):
        # The contract of all strategies is tested on each that the registry builds.
        twin = {"base": "registry"}.get(path.stem, path.stem)
        assert path.stem == "__init__" or (ROOT / "tests" / _room(path) / f"test_{twin}.py").is_file(), path.stem


def test_test_files_have_unique_names() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert len(names) == len(set(names))
