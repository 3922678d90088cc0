"""Capture of a pass over fixed buffers: as a CUDA graph, by torch.compile, or not at all."""

import threading
import warnings
from collections.abc import Callable, Hashable
from functools import lru_cache

import torch

from specgen.core.errors import SpecgenError
from specgen.core.words import first_line

Step = Callable[[], tuple[torch.Tensor, ...]]
"""A forward pass that reads only buffers with fixed addresses. It may run any number of times."""
Capture = Callable[[Step], Step]
"""Runs a step and returns a faster one with the same results. Raises RuntimeError. The next run of any step of the same
capture overwrites the results."""

# Number of compilations of the same code before torch gives up. Each width of each model counts as one.
_COMPILATIONS = 256


class Graphs:
    """The captured steps of a model, by key.

    After a capture has failed, steps run uncaptured. `report` returns the reason.
    """

    def __init__(self, new_capture: Callable[[], Capture]) -> None:
        self._new_capture = new_capture
        self._capture = new_capture()
        self._steps: dict[Hashable, Step] = {}
        self._reported = False
        self._fault: str | None = None

    def report(self) -> str | None:
        """The reason why steps cannot be captured, or None. A later failure becomes a Python warning."""
        self._reported = True
        return self._fault

    def run(self, key: Hashable, step: Step) -> tuple[torch.Tensor, ...]:
        """The results of `step`. It is captured at the first use of `key`."""
        if key not in self._steps:
            self._steps[key] = self._captured(step)
        return self._steps[key]()

    def clear(self) -> None:
        """Forget all steps, because their buffers are replaced."""
        self._steps.clear()
        self._capture = self._new_capture()

    def _captured(self, step: Step) -> Step:
        if self._fault is None:
            try:
                return self._capture(step)
            except RuntimeError as error:  # torch has no narrower class; OutOfMemoryError is one too
                self._fault = first_line(error)
                if self._reported:
                    warnings.warn(f"CUDA graphs fail from here on, which is slower: {self._fault}", stacklevel=2)
        return step


_CAPTURING = threading.Lock()
"""Held during a capture, because torch and the one stream allow only one at a time."""


@lru_cache
def _side_stream(device: int) -> torch.cuda.Stream:  # noqa: ARG001  the key
    """The stream on which all steps of a device are captured.

    Memory that is freed on a stream serves only that stream again. A new one for each capture would hold memory.
    """
    return torch.cuda.Stream()  # type: ignore[no-untyped-call]


class CudaGraphs:
    """Records the kernels of a step and launches them together. Launches take most of the time of a small model.

    All graphs of one instance share memory, because they never run at the same time.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        side = _side_stream(torch.cuda.current_device())
        with _CAPTURING:
            try:
                # Libraries initialize in a first run, which must not be recorded.
                side.wait_stream(stream)
                with torch.cuda.stream(side):
                    step()
                stream.wait_stream(side)
                # Another thread may load or run a model now, and allocate.
                with torch.cuda.graph(graph, pool=self._pool, stream=side, capture_error_mode="thread_local"):
                    results = step()
            finally:
                torch.cuda.set_stream(stream)  # a failed capture leaves its own stream current

        def replay() -> tuple[torch.Tensor, ...]:
            graph.replay()
            return results

        return replay


def compiled(step: Step) -> Step:
    """A `Capture` by torch.compile. It takes tens of seconds. Raises SpecgenError."""
    fast = torch.compile(step, dynamic=False)
    try:
        with torch._dynamo.config.patch(recompile_limit=_COMPILATIONS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns about what it cannot compile, such as complex numbers
            fast()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SpecgenError(
            f"torch.compile fails on this model: {first_line(error)}", hint="run it without --compile"
        ) from error
    return fast


def choose_capture(device: torch.device, *, compile_steps: bool) -> Callable[[], Capture] | None:
    """The constructor of captures for a device. None on a CPU without `compile_steps`: passes are not static there."""
    if device.type == "cuda":
        return _compiled_graphs if compile_steps else CudaGraphs
    if compile_steps:
        return lambda: compiled
    return None if device.type == "cpu" else lambda: lambda step: step


def _compiled_graphs() -> Capture:
    graphs = CudaGraphs()
    return lambda step: graphs(compiled(step))
