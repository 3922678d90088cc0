"""The installation of torch, and whether its int8 is exact on this processor."""

import platform

import torch

from specgen import __version__
from specgen.doctor.finding import Finding, Verdict
from specgen.nn.kernels.int8 import choose_kernel
from specgen.nn.kernels.int8_reduced import Reduced
from specgen.nn.kernels.int8_rounded import Rounded
from specgen.nn.kernels.linear import packs


def check_build() -> Finding:
    """Versions, and the device that this torch is made for."""
    made_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    found = f"specgen {__version__}, Python {platform.python_version()}, torch {torch.__version__} for {made_for}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        advice = "it lacks oneDNN, which int8 and bfloat16 need; install torch from PyPI"
        return Finding("torch", Verdict.WARN, found, advice)
    return Finding("torch", Verdict.OK, found)


def check_int8() -> Finding:
    """The self-tests that decide whether and how int8 is used."""
    kernel = choose_kernel()
    if isinstance(kernel, Reduced):
        found = "exact on this processor for rows of seven bits: large models run so, and are packed at every start"
        return Finding("int8", Verdict.OK, found)
    if isinstance(kernel, Rounded):
        found = "weights alone: the products of int8 are not exact on this processor, so rows are rounded to bfloat16"
        return Finding("int8", Verdict.OK, f"{found}; large models run so")
    if kernel is not None:
        return Finding("int8", Verdict.OK, "exact on this processor: large models run in int8")
    advice = "nothing to do: models run in float32"
    if packs(torch.bfloat16):
        advice += ", or --quant none for bfloat16"
    return Finding("int8", Verdict.WARN, "no kernel for this processor in this torch, so it is not used", advice)
