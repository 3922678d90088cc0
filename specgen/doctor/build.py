"""The installation of torch, and whether its int8 is exact on this processor."""

import platform

import torch

from specgen import __version__
from specgen.doctor.finding import Finding, Verdict
from specgen.engine.runners.int8 import is_exact
from specgen.engine.runners.linear import packs


def check_build() -> Finding:
    """Versions, and the device that this torch is made for."""
    made_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    found = f"specgen {__version__}, Python {platform.python_version()}, torch {torch.__version__} for {made_for}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        advice = "it lacks oneDNN, which int8 and bfloat16 need; install torch from PyPI"
        return Finding("torch", Verdict.WARN, found, advice)
    return Finding("torch", Verdict.OK, found)


def check_int8() -> Finding:
    """The self-test that decides whether int8 is used: its integers against exact ones."""
    if is_exact():
        return Finding("int8", Verdict.OK, "exact on this processor: large models run in int8")
    advice = "nothing to do: models run in float32"
    if packs(torch.bfloat16):
        advice += ", or --quant none for bfloat16"
    return Finding("int8", Verdict.WARN, "not exact on this processor and torch, so it is not used", advice)
