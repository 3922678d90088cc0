"""The device and the number format of a model."""

import functools
import threading
from collections.abc import Callable
from dataclasses import dataclass

import torch

from specgen.core.errors import DeviceUnavailable, UsageError
from specgen.core.types import Device, Dtype, EngineOptions, Quant
from specgen.nn.kernels import support
from specgen.nn.kernels.linear import packs

_DTYPES = {Dtype.BFLOAT16: torch.bfloat16, Dtype.FLOAT16: torch.float16, Dtype.FLOAT32: torch.float32}
# Largest share of a GPU's free memory for weights. The rest is for the KV cache and activations.
_HEADROOM = 0.8
# Weights of fewer bytes stay in a processor's caches, so int8 would save no time.
_SMALL = 1 << 26
# torch's number of CPU threads belongs to a thread. `count` is the number that was asked for there.
_threads = threading.local()


@dataclass(frozen=True, slots=True)
class Placement:
    """A device and the dtype of activations and caches.

    `quant` is int8 or int4 where weights are quantized, otherwise none. `spread`: accelerate distributes the layers
    over several GPUs.
    """

    device: torch.device
    dtype: torch.dtype
    quant: Quant = Quant.NONE
    spread: bool = False

    @property
    def quantized(self) -> bool:
        """Whether compiled kernels multiply quantized weights, on a CPU."""
        return self.quant is not Quant.NONE and self.device.type == "cpu"


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
    _threads.count = count or _default_threads()
    torch.set_num_threads(_threads.count)


def compute_threads() -> int:
    """The number of CPU threads to compute with in this thread."""
    count: int = getattr(_threads, "count", None) or _default_threads()
    return count


def rest_torch() -> None:
    """Leave the processor to compiled kernels in this thread.

    torch's threads poll for milliseconds after their work, and take the time of the kernels' threads.
    """
    use_threads(compute_threads())
    torch.set_num_threads(1)


@functools.cache
def _default_threads() -> int:
    return torch.get_num_threads()


def place(
    device: torch.device, options: EngineOptions, weight_bytes: int, *, lean: bool, is_draft: bool = False
) -> Placement:
    """How to load weights of `weight_bytes` bytes. `lean`: the lean decoder runs them, the only one with
    quantized weights.

    `auto` on a CPU is int8 for models of 64 MB and more on the lean decoder, otherwise float32. `--quant none` there is
    bfloat16 on processors with bfloat16 products. A draft has int4 where the target is quantized: it changes no text.
    `auto` on an accelerator is bfloat16, on a GPU without it float16. Raises UsageError, DeviceUnavailable.
    """
    if _wants_quantized(device, options, weight_bytes, lean=lean):
        rough = is_draft or options.quant is Quant.INT4
        return Placement(device, torch.float32, Quant.INT4 if rough else Quant.INT8)
    if device.type != "cpu" and options.quant in (Quant.INT8, Quant.INT4):
        return _place_quantized(device, options, lean=lean)
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


def _place_quantized(device: torch.device, options: EngineOptions, *, lean: bool) -> Placement:
    """Quantized weights on an accelerator. Raises UsageError, DeviceUnavailable."""
    if options.dtype not in (Dtype.AUTO, Dtype.BFLOAT16):
        raise UsageError(
            f"{options.quant} on {device.type} computes the rest in bfloat16, not in {options.dtype}",
            hint="omit --dtype",
        )
    if not lean:
        raise UsageError(f"a model that runs on transformers cannot run in {options.quant}", hint="omit --quant")
    if fault := support.find_device_fault(device, options.quant):
        raise DeviceUnavailable(f"{options.quant} does not run here: {fault}", hint="omit --quant")
    return Placement(device, torch.bfloat16, options.quant)


def _wants_quantized(device: torch.device, options: EngineOptions, weight_bytes: int, *, lean: bool) -> bool:
    if options.quant is Quant.AUTO:
        pays = device.type == "cpu" and options.dtype is Dtype.AUTO and lean and weight_bytes >= _SMALL
        return pays and support.find_fault() is None
    if options.quant is Quant.NONE or device.type != "cpu":
        return False
    if options.dtype not in (Dtype.AUTO, Dtype.FLOAT32):
        raise UsageError(f"{options.quant} computes the rest in float32, not in {options.dtype}", hint="omit --dtype")
    if not lean:
        raise UsageError(f"a model that runs on transformers cannot run in {options.quant}", hint="omit --quant")
    if fault := support.find_fault():
        raise DeviceUnavailable(f"{options.quant} does not run here: {fault}", hint="omit --quant")
    return True
