"""Loads a checkpoint into the lean decoder, or tells why that is impossible."""

from collections.abc import Callable, Generator
from types import ModuleType
from typing import TYPE_CHECKING

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice, Progress
from specgen.core.progress import Reporting
from specgen.core.types import Quant
from specgen.nn.device import Placement, compute_threads
from specgen.nn.kernels.device_linear import DeviceLinears
from specgen.nn.kernels.linears import FloatLinears
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.compile import hide_products
from specgen.nn.lean.fusion import choose_kernels, load_kernels
from specgen.nn.lean.graphs import Capture
from specgen.nn.lean.model import LeanModel
from specgen.nn.lean.static import WIDTH, StaticModel
from specgen.nn.lean.weights import Tensors, Weights, check_fit, find_fault, read_weights

if TYPE_CHECKING:
    from specgen.nn.lean.compiled import CompiledModel


def load_decoder(
    checkpoint: Checkpoint,
    architecture: Architecture,
    placement: Placement,
    context_length: int,
    new_capture: Callable[[], Capture] | None = None,
    *,
    exact: bool = True,
    is_draft: bool = False,
) -> Reporting["LeanModel | CompiledModel"]:
    """Load `checkpoint`, whose architecture `read_checkpoint_architecture` has read, onto its device.

    `context_length` is in tokens, for prompt and answer together. Its memory is allocated as needed. `new_capture` is
    the result of graphs.choose_capture for the device; `exact`, `is_draft`: see StaticModel. A
    quantized draft with a large vocabulary scores frequent tokens only: see draft_head.py.
    """
    tensors = open_tensors(checkpoint)
    if placement.quantized:
        return (
            yield from _load_compiled(
                checkpoint, architecture, tensors, placement.quant, context_length, is_draft=is_draft
            )
        )
    found = choose_kernels(architecture, placement, WIDTH)
    fused = found if isinstance(found, ModuleType) else None
    linears = FloatLinears(placement) if placement.quant is Quant.NONE else DeviceLinears(placement)
    shares = read_weights(architecture, tensors, placement, linears, fused)
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


def _load_compiled(
    checkpoint: Checkpoint,
    architecture: Architecture,
    tensors: Tensors,
    quant: Quant,
    context_length: int,
    *,
    is_draft: bool,
) -> Reporting["CompiledModel"]:
    from specgen.nn.kernels.compiler import is_compiled  # noqa: PLC0415  needs llvmlite
    from specgen.nn.kernels.team import team_of  # noqa: PLC0415
    from specgen.nn.lean.compiled import CompiledModel  # noqa: PLC0415
    from specgen.nn.lean.draft_head import FREQUENT, ChosenPanels  # noqa: PLC0415
    from specgen.nn.lean.panel_weights import load_matrices  # noqa: PLC0415
    from specgen.nn.lean.quantized_weights import read_quantized  # noqa: PLC0415

    matrices = yield from load_matrices(checkpoint, architecture, tensors, quant, is_draft=is_draft)
    weights = read_quantized(architecture, tensors, matrices)
    if not is_compiled("rows"):
        yield Progress("compiling for this processor, once")
    count = len(weights.head.panels.levels)
    scored = ChosenPanels(count) if is_draft and architecture.vocab_size > 2 * FREQUENT else None
    return CompiledModel(architecture, weights, context_length, team_of(compute_threads()), scored)


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
