"""Quantized checkpoints on a machine without the packages that they need."""

import json
from pathlib import Path
from typing import Any

import pytest

from specgen.checkpoint import checkpoint as backends
from specgen.core.errors import UnsupportedModel
from specgen.core.progress import follow
from specgen.core.types import EngineOptions
from specgen.session.loading import open_pair
from tests.hub.pulling import small
from tests.hub_server import HubServer, serve_hub, write_model

hub = pytest.fixture(serve_hub)


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The installed packages; none at first."""
    names: set[str] = set()
    monkeypatch.setattr(backends, "find_spec", lambda name: name if name in names else None)
    return names


def quantize(folder: Path, described: dict[str, Any]) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": described}))


@pytest.mark.parametrize(
    ("described", "needs"),
    [
        ({"quant_method": "gptq", "bits": 4}, "GPTQ, which needs gptqmodel and optimum; `pip install gptqmodel opt"),
        ({"quant_method": "awq"}, "AWQ, which needs gptqmodel; `pip install gptqmodel`"),
        ({"quant_method": "bitsandbytes"}, "bitsandbytes, which needs bitsandbytes; `pip install bitsandbytes`"),
        ({"load_in_8bit": True}, "bitsandbytes, which needs bitsandbytes; `pip install bitsandbytes`"),
        ({"quant_method": "torchao"}, "torchao, which needs torchao; `pip install torchao`"),
        ({"quant_method": "compressed-tensors"}, "compressed-tensors, which needs compressed-tensors; `pip"),
    ],
)
def test_a_missing_package_is_named_before_the_weights_are_downloaded(
    described: dict[str, Any], needs: str, hub: HubServer, tmp_path: Path, installed: set[str]
) -> None:
    quantize(write_model(tmp_path / "m"), described)
    hub.publish("org/m", tmp_path / "m")
    checkpoint = small()
    with pytest.raises(UnsupportedModel) as caught:
        follow(open_pair(checkpoint.ref, "none", EngineOptions()), lambda _: None)
    assert f"org/m is quantized with {needs}" in str(caught.value)
    assert caught.value.exit_code == 11
    assert not hub.asked("cdn")


def test_the_draft_is_looked_at_too(tmp_path: Path, installed: set[str]) -> None:
    quantize(write_model(tmp_path / "d"), {"quant_method": "awq"})
    target = small(str(write_model(tmp_path / "t"))).ref
    with pytest.raises(UnsupportedModel, match="d is quantized with AWQ"):
        follow(open_pair(target, str(tmp_path / "d"), EngineOptions()), lambda _: None)


def test_what_is_installed_or_unknown_is_left_to_transformers(tmp_path: Path, installed: set[str]) -> None:
    folder = write_model(tmp_path / "m")
    backends.check_backend(small(str(folder)))
    quantize(folder, {"quant_method": "some-other"})
    backends.check_backend(small(str(folder)))
    quantize(folder, {"quant_method": "gptq"})
    installed |= {"gptqmodel", "optimum"}
    backends.check_backend(small(str(folder)))
