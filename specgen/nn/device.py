"""The device and the number format of a model."""

import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from specgen.core.errors import DeviceUnavailable, UsageError
from specgen.core.types import Device, Dtype, EngineOptions, Quant
from specgen.nn.kernels.int8 import choose_kernel
from specgen.nn.kernels.linear import packs

_DTYPES = {Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16, Dtype.FLOAT32: torch.float32}
# Largest share of a GPU's free memory for weights. The rest is for the KV cache and activations.
_HEADROOM = 0.8
# Weights of fewer bytes stay in a processor's caches, so int8 would save no time.
_SMALL = 1 << 26
# torch's number of CPU threads belongs to a thread; `before` is the one that `use_threads` replaced there.
_threads = threading.local()


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and the dtype of activations and caches.

    `int8`: weights are int8, not of `dtype`. `spread`: accelerate distributes the layers over several GPUs.
    """

    device: torch.device
    dtype: torch.dtype
    int8: bool = False
    spread: bool = False


def choose_device(device: Device) -> torch.device:
    """The requested device, for `auto` the fastest available one. Raises DeviceUnavailable."""
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
            f"no {device} device is available to this installation of torch", hint=f"available: {found}"
        )
    return torch.device(device.value)


def use_threads(count: int | None) -> None:
    """Compute with `count` CPU threads in this thread; None undoes earlier calls."""
    before: int | None = getattr(_threads, "before", None)
    if count is not None:
        _threads.before = before or torch.get_num_threads()
        torch.set_num_threads(count)
    elif before:
        torch.set_num_threads(before)
        _threads.before = None


def place(device: torch.device, options: EngineOptions, weight_bytes: int, *, lean: bool) -> Placement:
    """How to load weights of `weight_bytes` bytes. `lean`: the lean decoder runs them, the only one with int8.

    `auto` on a CPU is int8 for models of 64 MB and more on the lean decoder, otherwise float32, so that speculative
    and plain decoding agree to the last token. `--quant none` there is bfloat16 on processors with bfloat16 products.
    `auto` on an accelerator is bfloat16, on a GPU without it float16. Raises UsageError, DeviceUnavailable.
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
        raise UsageError(f"int8 runs only on a CPU, and the device is {device.type}", hint="omit --quant")
    if options.dtype not in (Dtype.AUTO, Dtype.FLOAT32):
        raise UsageError(f"int8 computes the rest in float32, not in {options.dtype}", hint="omit --dtype")
    if not lean:
        raise UsageError("a model that runs on transformers cannot run in int8", hint="omit --quant")
    if choose_kernel() is None:
        raise DeviceUnavailable("no int8 kernel works on this processor", hint="omit --quant")
    return True
