"""The number format of a model: what is rounded to how many bits where."""

import pytest
import torch

from specgen.core.errors import DeviceUnavailable, UsageError
from specgen.core.types import Dtype, EngineOptions, Quant
from specgen.nn.device import place
from specgen.nn.kernels import support

CPU = torch.device("cpu")
LARGE = 1 << 30


@pytest.fixture(autouse=True)
def compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels run on every processor."""
    monkeypatch.setattr(support, "find_fault", lambda: None)


@pytest.mark.parametrize(
    ("quant", "dtype", "size", "lean", "target", "draft"),
    [
        (Quant.AUTO, Dtype.AUTO, LARGE, True, Quant.INT8, Quant.INT4),
        (Quant.INT8, Dtype.AUTO, LARGE, True, Quant.INT8, Quant.INT4),
        (Quant.INT4, Dtype.FLOAT32, 1000, True, Quant.INT4, Quant.INT4),
        (Quant.NONE, Dtype.AUTO, LARGE, True, Quant.NONE, Quant.NONE),
        (Quant.AUTO, Dtype.AUTO, 1000, True, Quant.NONE, Quant.NONE),
        (Quant.AUTO, Dtype.AUTO, LARGE, False, Quant.NONE, Quant.NONE),
        (Quant.AUTO, Dtype.FLOAT32, LARGE, True, Quant.NONE, Quant.NONE),
    ],
)
def test_a_draft_is_rougher_than_a_quantized_target(
    quant: Quant, dtype: Dtype, size: int, lean: bool, target: Quant, draft: Quant
) -> None:
    options = EngineOptions(quant=quant, dtype=dtype)
    assert place(CPU, options, size, lean=lean).quant is target
    assert place(CPU, options, size, lean=lean, is_draft=True).quant is draft


def test_a_format_that_cannot_be_is_refused_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceUnavailable, match="int4 does not run here: "):
        place(torch.device("meta"), EngineOptions(quant=Quant.INT4), LARGE, lean=True)
    with pytest.raises(UsageError, match="int4 computes the rest in float32"):
        place(CPU, EngineOptions(quant=Quant.INT4, dtype=Dtype.BFLOAT16), LARGE, lean=True)
    with pytest.raises(UsageError, match="cannot run in int4"):
        place(CPU, EngineOptions(quant=Quant.INT4), LARGE, lean=False)
    monkeypatch.setattr(support, "find_fault", lambda: "no llvmlite")
    with pytest.raises(DeviceUnavailable, match="int4 does not run here: no llvmlite"):
        place(CPU, EngineOptions(quant=Quant.INT4), LARGE, lean=True)
