"""Checks this machine and this installation, for specgen doctor.

Every check imports what it needs by itself, so that a broken library fails one check and not the others.
"""

import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Any

from specgen import __version__
from specgen.config import settings
from specgen.core.errors import SpecgenError
from specgen.core.events import Progress
from specgen.core.machine import cores, processor_name
from specgen.core.words import first_line, format_bytes, plural

_LITTLE_MEMORY = 2 << 30
_LITTLE_DISK = 5 << 30
_READ = 256 << 20  # bytes: larger than the caches of most processors, and read in a fraction of a second
_READS = 4
_SLOW_READ = 8e9  # bytes per second
_HUB_TIMEOUT_S = 5.0
_INT8 = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX int8",
    "i8mm": "I8MM",
    "dot": "dot product",
}
_BF16 = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX bf16", "bf16": "bf16", "avx_ne_convert": "AVX-NE-CONVERT"}
# Dimensions of a head, and query heads for each key head, of common models.
_HEAD_SIZES, _GROUPS = (64, 96, 128, 256), range(1, 9)


class Status(StrEnum):
    """`warn`: specgen works, but slower or with less room than possible. `fail`: something does not work at all."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check. `advice` is empty if nothing needs to be done."""

    check: str
    verdict: Status
    found: str
    advice: str = ""


def examine(*, offline: bool) -> Iterator[Progress | Finding]:
    """Run all checks. Each yields a Progress and then its Finding. A check that raises is a finding too."""
    checks: dict[str, Callable[[], Finding]] = {
        "torch": check_torch,
        "processor": check_processor,
        "threads": check_threads,
        "memory": check_memory,
        "bandwidth": check_bandwidth,
        "kernels": check_kernels,
        "rounding": check_rounding,
        "gpu": check_gpu,
        "cuda graphs": check_graphs,
        "triton": check_triton,
        "model cache": check_models,
        "packed weights": check_packed,
        "history": check_history,
        "config": check_config,
        "hub": partial(check_hub, offline=offline),
    }
    for name, check in checks.items():
        yield Progress(f"checking {name}")
        try:
            yield check()
        except Exception as error:
            advice = "reinstall it" if isinstance(error, ImportError) else "run it again with --debug and report it"
            yield Finding(name, Status.FAIL, f"{type(error).__name__}: {first_line(error)}", advice)


def check_torch() -> Finding:
    """Report the versions and the device that this torch is built for."""
    import torch

    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU"
    found = f"specgen {__version__}, Python {platform.python_version()}, torch {torch.__version__} for {build}"
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        advice = "it lacks oneDNN, which int8 and bfloat16 need; install torch from PyPI"
        return Finding("torch", Status.WARN, found, advice)
    return Finding("torch", Status.OK, found)


def check_processor() -> Finding:
    """Report the processor, its widest vectors and its int8 and bfloat16 instructions."""
    import torch

    ask = getattr(torch.cpu, "get_capabilities", None)  # older versions of torch lack it
    capabilities: dict[str, Any] | None = ask() if ask else None
    vectors = torch.backends.cpu.get_cpu_capability()
    if capabilities is None:
        features = "this torch does not report int8 and bfloat16 instructions"
    else:
        int8, bf16 = (
            ", ".join(shown for key, shown in names.items() if capabilities.get(key)) or "none"
            for names in (_INT8, _BF16)
        )
        features = f"int8 instructions: {int8}; bfloat16 instructions: {bf16}"
    found = f"{processor_name()}, vectors {vectors}; {features}"
    arm = (capabilities or {}).get("architecture", "").startswith(("arm", "aarch"))
    if vectors in ("DEFAULT", "NO AVX") and not arm:
        return Finding("processor", Status.WARN, found, "a processor with AVX2 is several times as fast")
    return Finding("processor", Status.OK, found)


def check_threads() -> Finding:
    """Compare the threads of torch with the cores that this process may use."""
    import psutil
    import torch

    allowed = cores()
    physical = psutil.cpu_count(logical=False) or allowed
    threads = torch.get_num_threads()
    found = f"{physical} cores, {allowed} usable hardware threads, {threads} threads in use"
    limit = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    if threads < min(physical, allowed):
        cause = f"{limit}={os.environ[limit]} sets that; unset it, or" if limit else "some cores are idle:"
        return Finding("threads", Status.WARN, found, f"{cause} give --threads {min(physical, allowed)}")
    if threads > allowed:
        advice = f"there are more threads than hardware threads: try --threads {allowed}"
        return Finding("threads", Status.WARN, found, advice)
    return Finding("threads", Status.OK, found)


def check_memory() -> Finding:
    """Report the free memory."""
    import psutil

    memory = psutil.virtual_memory()
    found = f"{format_bytes(memory.available)} free of {format_bytes(memory.total)}"
    if memory.available < _LITTLE_MEMORY:
        advice = "close other programs, or use a small model: -m stories needs little"
        return Finding("memory", Status.WARN, found, advice)
    return Finding("memory", Status.OK, found)


def check_bandwidth() -> Finding:
    """Measure the read bandwidth of the memory briefly. specgen bench --roofline measures it longer."""
    import torch

    from specgen.bench.roofline import bandwidth

    read = bandwidth(torch.device("cpu"), _READ, _READS)
    found = f"{read / 1e9:.1f} GB/s read; a model of 1 GB generates at most {read / 1e9:.0f} tok/s without a draft"
    if read < _SLOW_READ:
        advice = "check whether another program is running; otherwise use a smaller model"
        return Finding("bandwidth", Status.WARN, found, advice)
    return Finding("bandwidth", Status.OK, found)


def check_kernels() -> Finding:
    """Report the instructions with which quantized weights are multiplied."""
    import torch

    from specgen.nn.kernels import support
    from specgen.nn.kernels.linear import packs

    if fault := support.find_fault():
        advice = "models run in float32" + (", or with --quant none in bfloat16" if packs(torch.bfloat16) else "")
        return Finding("kernels", Status.WARN, f"quantized weights do not run here: {fault}", advice)
    from specgen.nn.kernels.dots import available

    name = available()[0].name
    found = f"quantized weights are multiplied with {name} instructions, exact at every width"
    if name == "portable":
        return Finding("kernels", Status.WARN, found, "a processor with AVX2 or NEON dot products is faster")
    return Finding("kernels", Status.OK, found)


def check_rounding() -> Finding:
    """Report whether a token's scores depend on how many tokens are computed together."""
    import torch

    from specgen.nn.lean.attention import choose_tile, depends_on_width

    def is_faulty(size: int, groups: int) -> bool:
        tile = choose_tile(size, groups, None, torch.float32)
        return depends_on_width(size, groups, None, torch.float32, tile)

    sizes = [size for size in _HEAD_SIZES if any(is_faulty(size, groups) for groups in _GROUPS)]
    if not sizes:
        return Finding("rounding", Status.OK, "scores do not depend on how many tokens are computed together")
    found = (
        f"with {', '.join(map(str, sizes))} dimensions a head, the last bits of scores depend on how many tokens are "
        "computed together: a draft may change the text where two tokens score alike"
    )
    return Finding("rounding", Status.WARN, found, "specgen check -m MODEL shows whether a model is affected")


def check_gpu() -> Finding:
    """Report the accelerators and whether torch can use them."""
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        free, total = torch.cuda.mem_get_info()
        return Finding("gpu", Status.OK, f"{', '.join(names)}; {format_bytes(free)} free of {format_bytes(total)}")
    for name, module in (("mps", torch.backends.mps), ("xpu", torch.xpu)):
        if module.is_available():
            return Finding("gpu", Status.OK, f"{name} is available")
    if shutil.which("nvidia-smi"):
        build = "a build for a CPU" if torch.version.cuda is None else f"a build for CUDA {torch.version.cuda}"
        advice = "install a torch for CUDA (pytorch.org says how), and a driver that fits it"
        return Finding("gpu", Status.WARN, f"there is an NVIDIA driver, but torch, {build}, sees no GPU", advice)
    return Finding("gpu", Status.OK, "none; models run on the processor")


def check_triton() -> Finding:
    """Report whether the fused kernels run. Exact text on CUDA needs them."""
    import torch

    from specgen.nn.lean.fusion import load_kernels

    if not torch.cuda.is_available():
        return Finding("triton", Status.OK, "not needed without CUDA")
    fault = load_kernels(torch.device("cuda"))
    if not isinstance(fault, str):
        return Finding("triton", Status.OK, "runs: the text on this GPU is the same with any draft")
    found = f"{fault}: passes are slower, and a draft may change the text where two tokens score nearly alike"
    return Finding("triton", Status.WARN, found, "install triton and a C compiler such as gcc")


def check_graphs() -> Finding:
    """Capture a small step as a CUDA graph and run it. Models on CUDA need graphs for their speed."""
    import torch

    from specgen.nn.lean.graphs import CudaGraphs

    if not torch.cuda.is_available():
        return Finding("cuda graphs", Status.OK, "not needed without CUDA")
    numbers = torch.ones(8, device="cuda")
    try:
        captured = CudaGraphs()(lambda: (numbers + 1,))
        right = bool((captured()[0] == 2).all())
    except RuntimeError as error:  # torch has no narrower class for it
        advice = "specgen works without them, slower; update the driver"
        return Finding("cuda graphs", Status.WARN, first_line(error), advice)
    if not right:
        return Finding("cuda graphs", Status.FAIL, "a captured step computes wrong", "update the driver and torch")
    return Finding("cuda graphs", Status.OK, "captured and run")


def check_models() -> Finding:
    """Report the size of the Hugging Face cache."""
    from specgen.hub import cache

    models = cache.cached_models()
    size = format_bytes(sum(model.size for model in models))
    found = f"{plural(len(models), 'model')}, {size} in {cache.folder()}"
    return _check_folder("model cache", found, cache.folder(), "set HF_HOME to a writable folder")


def check_packed() -> Finding:
    """Report the size of the weights that specgen packed."""
    from specgen.nn.kernels import weight_cache

    folder = weight_cache.folder()
    size = sum(file.stat().st_size for file in folder.glob("*") if file.is_file()) if folder.is_dir() else 0
    found = f"{format_bytes(size)} in {folder}"
    return _check_folder("packed weights", found, folder, "make it writable: otherwise every start packs again")


def _check_folder(check: str, found: str, folder: Path, advice: str) -> Finding:
    """Check that `folder`, which may not exist yet, is writable (else `advice`) and has free space."""
    there = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    if not os.access(there, os.W_OK):
        return Finding(check, Status.WARN, f"{found}, not writable", advice)
    free = shutil.disk_usage(there).free
    found = f"{found}, {format_bytes(free)} free on that disk"
    if free < _LITTLE_DISK:
        return Finding(check, Status.WARN, found, "free some space; specgen rm deletes models")
    return Finding(check, Status.OK, found)


def check_history() -> Finding:
    from specgen.engine.drafters.answer_index import MOST_TOKENS
    from specgen.history.recorder import open_history
    from specgen.history.store import location, logging_is_on

    if not logging_is_on():
        return Finding("history", Status.OK, "logging is off, so nothing is drafted from earlier answers")
    if not location().exists():
        return Finding("history", Status.OK, "empty")
    with open_history() as history:
        count = history.count()
    return Finding(
        "history", Status.OK, f"{plural(count, 'answer')}; lookup drafts from the latest {MOST_TOKENS >> 10}k tokens"
    )


def check_config() -> Finding:
    """Read the settings of the user and of the project."""
    try:
        values = settings.resolve().found
    except SpecgenError as error:
        return Finding("config", Status.FAIL, error.message, error.hint)
    files = [path for path in (settings.user_file(), settings.project_file()) if path and path.is_file()]
    where = " and ".join(map(str, files)) or "no file"
    return Finding("config", Status.OK, f"{plural(len(values), 'setting')} from {where}; see specgen config list")


def check_hub(*, offline: bool) -> Finding:
    """Send one small request to HF_ENDPOINT, unless offline. Any answer will do, also that of a mirror."""
    import httpx2

    from specgen.hub.client import constants

    hub = constants.ENDPOINT
    if offline or constants.HF_HUB_OFFLINE:
        return Finding("hub", Status.OK, "not checked: offline; cached models work")
    start = time.monotonic()
    try:
        response = httpx2.get(f"{hub}/api/models?limit=1", timeout=_HUB_TIMEOUT_S, follow_redirects=True)
    except (httpx2.InvalidURL, httpx2.UnsupportedProtocol):
        return Finding("hub", Status.WARN, f"{hub} is not a URL", "check HF_ENDPOINT")
    except httpx2.HTTPError as error:
        advice = "cached models work (--offline); check the connection, a proxy, HF_ENDPOINT"
        return Finding("hub", Status.WARN, f"cannot reach {hub} ({error or type(error).__name__})", advice)
    taken = 1000 * (time.monotonic() - start)
    if response.status_code >= 500 or response.status_code == 429:
        advice = "try again later; check HF_ENDPOINT and the proxy"
        return Finding("hub", Status.WARN, f"{hub} answered {response.status_code}", advice)
    return Finding("hub", Status.OK, f"{hub} answered in {taken:.0f} ms")
