"""Where a model runs and in which number format."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from specgen.core import Device, Dtype
from specgen.errors import DeviceUnavailable

_DTYPES = {Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16, Dtype.FLOAT32: torch.float32}
# What must stay free on a GPU beside the weights, for the KV cache and activations.
_HEADROOM = 0.8


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and a dtype. `spread` lets accelerate place the layers on several GPUs."""

    device: torch.device
    dtype: torch.dtype
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


def place(device: torch.device, dtype: Dtype, weight_bytes: int) -> Placement:
    """How to load weights of `weight_bytes` bytes.

    `auto` is float32 on a CPU, where speculative and plain decoding then agree to the last token, and bfloat16 on an
    accelerator (float16 where that GPU has no bfloat16).
    """
    if dtype is not Dtype.AUTO:
        chosen = _DTYPES[dtype]
    elif device.type == "cpu":
        chosen = torch.float32
    elif device.type == "cuda" and not torch.cuda.is_bf16_supported():
        chosen = torch.float16
    else:
        chosen = torch.bfloat16
    spread = (
        device.type == "cuda"
        and torch.cuda.device_count() > 1
        and weight_bytes > _HEADROOM * torch.cuda.mem_get_info(device)[0]
    )
    return Placement(device, chosen, spread)
