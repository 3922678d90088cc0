"""Checkpoints that are quantized already run on transformers, with packages that specgen itself does not need."""

from importlib.util import find_spec

from specgen.core.errors import UnsupportedModel
from specgen.models.checkpoint import Checkpoint

# quant_method of config.json -> what it is called, and the packages that transformers needs for it.
_NEEDS = {
    "gptq": ("GPTQ", ("gptqmodel", "optimum")),
    "awq": ("AWQ", ("gptqmodel",)),
    "bitsandbytes": ("bitsandbytes", ("bitsandbytes",)),
    "torchao": ("torchao", ("torchao",)),
    "compressed-tensors": ("compressed-tensors", ("compressed_tensors",)),
}


def quant_method(checkpoint: Checkpoint) -> str | None:
    """How the weights are quantized; None for plain ones, and for GGUF. Raises BadFile."""
    described = checkpoint.config.get("quantization_config")
    if not isinstance(described, dict):
        return None
    return str(described.get("quant_method") or "bitsandbytes")  # which was the first, and did not say so


def check_backend(checkpoint: Checkpoint) -> None:
    """Raise UnsupportedModel where a package is missing; before the weights are downloaded. Raises BadFile."""
    method = quant_method(checkpoint)
    if method not in _NEEDS:
        return
    name, packages = _NEEDS[method]
    missing = [package.replace("_", "-") for package in packages if find_spec(package) is None]
    if missing:
        raise UnsupportedModel(
            f"{checkpoint.ref} is quantized with {name}, which needs {' and '.join(missing)}",
            hint=f"`pip install {' '.join(missing)}`, or choose the model itself (--quant int8) or a .gguf file of it",
        )
