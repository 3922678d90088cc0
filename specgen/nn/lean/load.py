"""Opening a checkpoint with the lean decoder: whether it can, and its weights into a model."""

from collections.abc import Callable, Generator
from pathlib import Path

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.events import Notice, Progress
from specgen.core.progress import Reporting
from specgen.nn.device import Placement
from specgen.nn.kernels.int8 import choose_kernel
from specgen.nn.kernels.pack import FloatLinears, Int8Linears
from specgen.nn.lean.architecture import Description, describe
from specgen.nn.lean.compile import opaque
from specgen.nn.lean.graphs import Capture
from specgen.nn.lean.model import LeanModel
from specgen.nn.lean.weights import Stack, Tensors, find_fault, read_stack


def load_decoder(
    checkpoint: Checkpoint,
    description: Description,
    placement: Placement,
    context_length: int,
    new_capture: Callable[[], Capture] | None = None,
) -> Reporting[LeanModel]:
    """The model of `checkpoint`, which `describe_checkpoint` described, on its device.

    `context_length` is in tokens, prompt and answer together; memory for it is taken as it is used. `new_capture` is
    what graphs.choose_capture gives for the device.
    """
    tensors = _open_tensors(checkpoint.weight_files)
    if placement.int8:
        stack = yield from _read_int8(checkpoint, description, tensors, placement)
    else:
        shares = read_stack(description, tensors, placement, FloatLinears(placement))
        stack = yield from _progress("loading", checkpoint, shares)
    if new_capture and placement.device.type == "cpu":
        stack = opaque(stack, description)
    model = LeanModel(description, stack, placement, context_length, new_capture)
    if failure := model.warm_up():
        yield Notice(f"{checkpoint.ref.source} runs without CUDA graphs, which is slower: {failure}")
    return model


def _open_tensors(files: list[Path]) -> Tensors:
    """The tensors of a checkpoint's weight files, by the names that the hub has for them. Raises BadFile for GGUF."""
    if files[0].suffix != ".gguf":
        return Tensors(files)
    from specgen.nn.lean.gguf_weights import GgufTensors  # noqa: PLC0415  0.1 s, only for GGUF

    return GgufTensors(files[0])


def _read_int8(
    checkpoint: Checkpoint, description: Description, tensors: Tensors, placement: Placement
) -> Reporting[Stack]:
    kernel = choose_kernel()
    assert kernel is not None, "place() has looked"  # noqa: S101
    with Int8Linears(checkpoint.weight_files, kernel) as linears:
        doing = "packing" if linears.packs else "loading"
        stack = yield from _progress(doing, checkpoint, read_stack(description, tensors, placement, linears))
    if linears.failure:
        yield Notice(f"the packed weights could not be kept ({linears.failure}): the next start packs again")
    return stack


def _progress(doing: str, checkpoint: Checkpoint, shares: Generator[float, None, Stack]) -> Reporting[Stack]:
    """The stack, with a Progress for every share of it."""
    total = checkpoint.weight_bytes
    try:
        while True:
            yield Progress(f"{doing} {checkpoint.ref.source}", int(next(shares) * total), total)
    except StopIteration as finished:
        stack: Stack = finished.value
        return stack


def describe_checkpoint(checkpoint: Checkpoint) -> Description | str:
    """What `load_decoder` needs to know of a checkpoint whose weights are there, or the reason why it cannot run it."""
    if checkpoint.is_gguf:
        from specgen.nn.lean.gguf_weights import describe_gguf  # noqa: PLC0415  0.1 s, only for GGUF

        return describe_gguf(checkpoint.header)
    description = describe(checkpoint.config)
    if isinstance(description, str):
        return description
    return find_fault(description, Tensors(checkpoint.weight_files)) or description
