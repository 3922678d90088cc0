"""Where a model runs and in which number format."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from specgen.core.errors import DeviceUnavailable, UsageError
from specgen.core.types import Device, Dtype, EngineOptions, Quant
from specgen.nn.kernels.int8 import choose_kernel
from specgen.nn.kernels.linear import packs

_DTYPES = {Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16, Dtype.FLOAT32: torch.float32}
# What must stay free on a GPU beside the weights, for the KV cache and activations.
_HEADROOM = 0.8
# Weights of fewer bytes stay in a processor's caches, where reading them costs nothing that int8 could save.
_SMALL = 1 << 26


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and the dtype of activations and caches.

    `int8` multiplies in int8, else weights have the dtype. `spread` lets accelerate place the layers on several GPUs.
    """

    device: torch.device
    dtype: torch.dtype
    int8: bool = False
    spread: bool = False


def choose_device(device: Device) -> torch.device:
    """The device asked for, or the fastest there is. Raises DeviceUnavailable."""
    available: dict[Device, Callable[[], bool]] = {
        Device.CUDA: torch.cuda.is_available,
        Device.MPS: torch.backends.mps.is_available,
        Device.XPU: torch.xpu.is_available,
        Device.CPU: lambda: True,
    }
    if device is Device.AUTO:
        return torch.device(next(name for name, is_there in available.items() if is_there()).value)
    if not available[device]():
        found = ", ".join(name.value for name, is_there in available.items() if is_there())
        raise DeviceUnavailable(
            f"no {device} device is available to this installation of torch", hint=f"there is: {found}"
        )
    return torch.device(device.value)


def place(device: torch.device, options: EngineOptions, weight_bytes: int, *, lean: bool) -> Placement:
    """How to load weights of `weight_bytes` bytes; `lean`: into our own decoder, the only one that knows int8.

    `auto` on a CPU is int8, where it is exact, for what is large enough to gain from it, else float32: speculative and
    plain decoding then agree to the last token. Without int8 by the user's own wish it is the fastest, bfloat16 where
    the processor has it. On an accelerator it is bfloat16 (float16 where that GPU has none). Raises UsageError,
    DeviceUnavailable.
    """
    if _wants_int8(device, options, weight_bytes, lean=lean):
        return Placement(device, torch.float32, int8=True)
    if options.dtype is not Dtype.AUTO:
        chosen = _DTYPES[options.dtype]
    elif device.type == "cpu":
        fast = lean and options.quant is Quant.NONE and packs(torch.bfloat16)
        chosen = torch.bfloat16 if fast else torch.float32
    elif device.type == "cuda" and not torch.cuda.is_bf16_supported():
        chosen = torch.float16
    else:
        chosen = torch.bfloat16
    spread = (
        device.type == "cuda"
        and torch.cuda.device_count() > 1
        and weight_bytes > _HEADROOM * torch.cuda.mem_get_info(device)[0]
    )
    return Placement(device, chosen, spread=spread)


def _wants_int8(device: torch.device, options: EngineOptions, weight_bytes: int, *, lean: bool) -> bool:
    if options.quant is Quant.AUTO:
        pays = device.type == "cpu" and options.dtype is Dtype.AUTO and lean and weight_bytes >= _SMALL
        return pays and choose_kernel() is not None
    if options.quant is Quant.NONE:
        return False
    if device.type != "cpu":
        raise UsageError(f"int8 runs on a CPU, and the device is {device.type}", hint="leave out --quant")
    if options.dtype not in (Dtype.AUTO, Dtype.FLOAT32):
        raise UsageError(
            f"int8 computes in float32 beside its matrices, not in {options.dtype}", hint="leave out --dtype"
        )
    if not lean:
        raise UsageError("a model that runs on transformers cannot run in int8", hint="leave out --quant")
    if choose_kernel() is None:
        raise DeviceUnavailable("no int8 kernel is exact on this processor", hint="leave out --quant")
    return True
