"""Whether compiled kernels run here."""

import functools
import platform


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
