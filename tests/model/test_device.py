"""The config decides on the device; what it asks for and is not there is named."""

import pytest
import torch

from gainrl_ray.errors import ResourceError
from gainrl_ray.model.device import device_type


@pytest.mark.parametrize(("gpus", "found", "wanted"), [(0.0, True, "cpu"), (0.0, False, "cpu"), (0.5, True, "cuda")])
def test_a_gpu_is_used_where_it_was_given(
    monkeypatch: pytest.MonkeyPatch, gpus: float, found: bool, wanted: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found)
    assert device_type(gpus, "scoring.gpus_per_actor") == wanted


@pytest.mark.parametrize(
    ("built", "visible", "said"),
    [
        (None, None, r"is built without CUDA, CUDA_VISIBLE_DEVICES is not set\. .*extra `gpu`"),
        ("13.0", "", r"is built for CUDA 13\.0, CUDA_VISIBLE_DEVICES is ''\. .*nvidia-smi"),
    ],
)
def test_a_missing_gpu_is_told(
    monkeypatch: pytest.MonkeyPatch, built: str | None, visible: str | None, said: str
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.version, "cuda", built)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    with pytest.raises(ResourceError, match=rf"^scoring\.gpus_per_actor=2 asks for .*{said}.*=0$"):
        device_type(2.0, "scoring.gpus_per_actor")
