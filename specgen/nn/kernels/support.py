"""Whether compiled kernels run here."""

import functools
import platform

import torch

from specgen.core.types import Quant


@functools.cache
def find_fault() -> str | None:
    """The reason why this machine cannot compile and run the kernels, None if it can."""
    try:
        from specgen.nn.kernels.compiler import features  # noqa: PLC0415  llvmlite may be missing or broken
    except (ImportError, OSError) as error:
        return f"llvmlite cannot be imported: {error}"
    # Without these instructions LLVM calls functions that no library here has.
    if platform.machine().lower() in ("x86_64", "amd64") and not {"f16c", "avx2", "fma"} <= features():
        return "the processor is older than AVX2"
    return None


def find_device_fault(device: torch.device, quant: Quant) -> str | None:
    """Why torch cannot multiply weights of this format on `device`, None if it can."""
    needed = ["_weight_int8pack_mm"]
    needed += ["_weight_int4pack_mm", "_convert_weight_to_int4pack"] if quant is Quant.INT4 else []
    key = device.type.upper()
    for name in needed:
        try:
            has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key(f"aten::{name}", key)
        except RuntimeError:  # torch does not know such a device
            has_kernel = False
        if not has_kernel:
            return f"torch {torch.__version__} has no {name} for {device.type}"
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < (8, 0):
        return "the card has no products in bfloat16"
    return None
