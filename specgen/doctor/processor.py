"""The processor: what it multiplies fast, and how many of its cores are used."""

import os
from typing import Any

import psutil
import torch

from specgen.core.machine import cores, processor_name
from specgen.doctor.finding import Finding, Verdict

_INT8 = {
    "avx512_vnni": "AVX512-VNNI",
    "avx_vnni": "AVX-VNNI",
    "amx_int8": "AMX int8",
    "i8mm": "I8MM",
    "dot": "dot product",
}
_BF16 = {"avx512_bf16": "AVX512-BF16", "amx_bf16": "AMX bf16", "bf16": "bf16", "avx_ne_convert": "AVX-NE-CONVERT"}


def check_processor() -> Finding:
    """Its name, its widest vectors as torch uses them, and its int8 and bfloat16 instructions."""
    told = _capabilities()
    vectors = torch.backends.cpu.get_cpu_capability()
    if told is None:
        features = "what it multiplies fast is not told by this torch"
    else:
        int8, bf16 = (
            ", ".join(shown for key, shown in names.items() if told.get(key)) or "none" for names in (_INT8, _BF16)
        )
        features = f"int8 instructions: {int8}; bfloat16 instructions: {bf16}"
    found = f"{processor_name()}, vectors {vectors}; {features}"
    if vectors in ("DEFAULT", "NO AVX") and not (told or {}).get("architecture", "").startswith(("arm", "aarch")):
        return Finding("processor", Verdict.WARN, found, "a processor with AVX2 is several times as fast")
    return Finding("processor", Verdict.OK, found)


def check_threads() -> Finding:
    """The cores that this process may use, and the threads that torch makes of them."""
    allowed = cores()
    physical = psutil.cpu_count(logical=False) or allowed
    threads = torch.get_num_threads()
    found = f"{physical} cores, {allowed} usable threads of hardware, {threads} threads in use"
    limit = next((name for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS") if os.environ.get(name)), None)
    if threads < min(physical, allowed):
        because = f"{limit}={os.environ[limit]} sets that; unset it, or" if limit else "there are cores to spare:"
        return Finding("threads", Verdict.WARN, found, f"{because} give --threads {min(physical, allowed)}")
    if threads > allowed:
        return Finding("threads", Verdict.WARN, found, f"more threads than hardware has: try --threads {allowed}")
    return Finding("threads", Verdict.OK, found)


def _capabilities() -> dict[str, Any] | None:
    """What torch says that the processor can do; older ones do not say."""
    ask = getattr(torch.cpu, "get_capabilities", None)
    return ask() if ask else None
