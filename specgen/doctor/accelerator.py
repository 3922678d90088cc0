"""Accelerators: which there are, whether torch can use them, and whether CUDA graphs work there."""

import shutil

import torch

from specgen.core.words import format_bytes
from specgen.doctor.finding import Finding, Verdict
from specgen.nn.lean.graphs import CudaGraphs


def check_gpu() -> Finding:
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        return Finding("gpu", Verdict.OK, f"{', '.join(names)}; {format_bytes(free)} free of {format_bytes(total)}")
    for name, module in (("mps", torch.backends.mps), ("xpu", torch.xpu)):
        if module.is_available():
            return Finding("gpu", Verdict.OK, f"{name} is there")
    if shutil.which("nvidia-smi"):
        build = "a build for a CPU" if torch.version.cuda is None else f"a build for CUDA {torch.version.cuda}"
        advice = "install a torch for CUDA (pytorch.org says how), and a driver that fits it"
        return Finding("gpu", Verdict.WARN, f"an NVIDIA driver is there, but torch, {build}, sees no GPU", advice)
    return Finding("gpu", Verdict.OK, "none; models run on the processor")


def check_graphs() -> Finding:
    """Captures a small step and runs it: what a model's passes on CUDA rely on for their speed."""
    if not torch.cuda.is_available():
        return Finding("cuda graphs", Verdict.OK, "not needed without CUDA")
    numbers = torch.ones(8, device="cuda")
    try:
        captured = CudaGraphs()(lambda: (numbers + 1,))
        right = bool((captured()[0] == 2).all())
    except RuntimeError as error:  # torch has no narrower class for it
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        return Finding("cuda graphs", Verdict.WARN, reason, "specgen works without them, slower; update the driver")
    if not right:
        return Finding("cuda graphs", Verdict.FAIL, "a captured step computes wrong", "update the driver and torch")
    return Finding("cuda graphs", Verdict.OK, "captured and run")
