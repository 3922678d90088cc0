"""Loads a checkpoint into the lean decoder, or tells why that is impossible."""

from collections.abc import Callable, Generator
from types import ModuleType

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice, Progress
from specgen.core.progress import Reporting
from specgen.nn.device import Placement
from specgen.nn.kernels.int8 import choose_kernel
from specgen.nn.kernels.pack import FloatLinears, Int8Linears
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.compile import hide_products
from specgen.nn.lean.fusion import choose_kernels, load_kernels
from specgen.nn.lean.graphs import Capture
from specgen.nn.lean.model import LeanModel
from specgen.nn.lean.static import WIDTH, StaticModel
from specgen.nn.lean.weights import Tensors, Weights, check_fit, find_fault, read_weights


def load_decoder(
    checkpoint: Checkpoint,
    architecture: Architecture,
    placement: Placement,
    context_length: int,
    new_capture: Callable[[], Capture] | None = None,
    *,
    exact: bool = True,
    is_draft: bool = False,
) -> Reporting[LeanModel]:
    """Load `checkpoint`, whose architecture `read_checkpoint_architecture` has read, onto its device.

    `context_length` is in tokens, for prompt and answer together. Its memory is allocated as needed. `new_capture` is
    the result of graphs.choose_capture for the device; `exact`, `is_draft`: see StaticModel.
    """
    tensors = open_tensors(checkpoint)
    found = choose_kernels(architecture, placement, WIDTH)
    fused = found if isinstance(found, ModuleType) else None
    if placement.int8:
        weights = yield from _read_int8(checkpoint, architecture, tensors, placement)
    else:
        shares = read_weights(architecture, tensors, placement, FloatLinears(placement), fused)
        weights = yield from _progress("loading", checkpoint, shares)
    if new_capture and placement.device.type == "cpu":
        weights = hide_products(weights, architecture)
    if new_capture is None:
        return LeanModel(architecture, weights, placement, context_length)
    model = StaticModel(architecture, weights, placement, context_length, new_capture, exact=exact, is_draft=is_draft)
    if failure := model.warm_up():
        yield Notice(f"{checkpoint.ref.source} runs without CUDA graphs, which is slower: {failure}")
    if isinstance(found, str) and not (is_draft and isinstance(load_kernels(placement.device), str)):
        doubt = "" if is_draft else ", and a draft may change the text where two tokens score nearly alike"
        yield Notice(f"{checkpoint.ref.source} runs without fused kernels ({found}), so passes are slower{doubt}")
    return model


def open_tensors(checkpoint: Checkpoint) -> Tensors:
    """The tensors of a checkpoint by their names on the hub. Raises BadFile for GGUF."""
    if not checkpoint.is_gguf:
        return Tensors(checkpoint.weight_files)
    from specgen.nn.lean.gguf_weights import GgufTensors  # noqa: PLC0415  0.1 s, only for GGUF

    return GgufTensors(checkpoint.path)


def _read_int8(
    checkpoint: Checkpoint, architecture: Architecture, tensors: Tensors, placement: Placement
) -> Reporting[Weights]:
    kernel = choose_kernel()
    assert kernel is not None, "place() found one"  # noqa: S101
    with Int8Linears(checkpoint.weight_files, kernel) as linears:
        doing = "packing" if linears.packs else "loading"
        weights = yield from _progress(doing, checkpoint, read_weights(architecture, tensors, placement, linears))
    if linears.failure:
        yield Notice(f"the packed weights could not be saved ({linears.failure}): the next start packs again")
    return weights


def _progress(doing: str, checkpoint: Checkpoint, shares: Generator[float, None, Weights]) -> Reporting[Weights]:
    """Read the weights and report a Progress after each layer."""
    total = checkpoint.weight_bytes
    try:
        while True:
            yield Progress(f"{doing} {checkpoint.ref.source}", int(next(shares) * total), total)
    except StopIteration as finished:
        weights: Weights = finished.value
        return weights


def read_checkpoint_architecture(checkpoint: Checkpoint) -> Architecture | str:
    """The architecture of a downloaded checkpoint, or the reason why the lean decoder cannot run it.

    Raises UnsupportedModel for weights that do not fit their config, BadFile for a damaged GGUF file.
    """
    if checkpoint.is_gguf:
        from specgen.nn.lean.gguf_weights import read_gguf_architecture  # noqa: PLC0415  0.1 s, only for GGUF

        return read_gguf_architecture(checkpoint.header)
    architecture = read_architecture(checkpoint.config)
    if isinstance(architecture, str):
        return architecture
    tensors = Tensors(checkpoint.weight_files)
    check_fit(architecture, tensors, checkpoint.path)
    return find_fault(architecture, tensors) or architecture
