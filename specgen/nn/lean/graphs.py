"""What makes a step fast where its buffers stay in place: CUDA graphs, torch.compile, or nothing at all."""

import warnings
from collections.abc import Callable, Hashable

import torch

from specgen.core.errors import SpecgenError

Step = Callable[[], tuple[torch.Tensor, ...]]
"""A forward pass over buffers that stay where they are: it may run any number of times, and reads nothing else."""
Capture = Callable[[Step], Step]
"""Runs a step, and gives one that does the same faster, or raises RuntimeError. Its results are overwritten when it,
or another step of the same capture, runs again."""

# How often torch compiles the same code before it gives up. Each width of each model counts.
_COMPILATIONS = 256


class Graphs:
    """The captured steps of a model, by a key that says what each computes.

    Where capturing fails, steps run as they are from then on, and `report` says why.
    """

    def __init__(self, new_capture: Callable[[], Capture]) -> None:
        self._new_capture = new_capture
        self._capture = new_capture()
        self._steps: dict[Hashable, Step] = {}
        self._reported = False
        self._fault: str | None = None

    def report(self) -> str | None:
        """Why steps cannot be captured, None where they can. What fails later is a warning: nobody else would tell."""
        self._reported = True
        return self._fault

    def run(self, key: Hashable, step: Step) -> tuple[torch.Tensor, ...]:
        """What `step` computes, which is captured when its key is met for the first time."""
        if key not in self._steps:
            self._steps[key] = self._captured(step)
        return self._steps[key]()

    def clear(self) -> None:
        """Forget all steps, because their buffers go."""
        self._steps.clear()
        self._capture = self._new_capture()

    def _captured(self, step: Step) -> Step:
        if self._fault is None:
            try:
                return self._capture(step)
            except RuntimeError as error:  # torch has no narrower class for it; running out of memory is one too
                self._fault = _first_line(error)
                if self._reported:
                    warnings.warn(f"CUDA graphs fail from here on, which is slower: {self._fault}", stacklevel=2)
        return step


class CudaGraphs:
    """Records the kernels of a step and launches all of them at once; small models wait for little but launches.

    All graphs of one instance share their memory, as they never run at the same time.
    """

    def __init__(self) -> None:
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, step: Step) -> Step:
        graph, stream = torch.cuda.CUDAGraph(), torch.cuda.current_stream()
        try:
            # Libraries set themselves up in a first run, which may not be recorded.
            side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
            side.wait_stream(stream)
            with torch.cuda.stream(side):
                step()
            stream.wait_stream(side)
            # Another thread may be loading or running another model meanwhile, and allocate.
            with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
                results = step()
        finally:
            torch.cuda.set_stream(stream)  # a capture that failed leaves its own behind

        def replay() -> tuple[torch.Tensor, ...]:
            graph.replay()
            return results

        return replay


def compiled(step: Step) -> Step:
    """A `Capture` by torch.compile, which takes tens of seconds. Raises SpecgenError."""
    fast = torch.compile(step, dynamic=False)
    try:
        with torch._dynamo.config.patch(recompile_limit=_COMPILATIONS), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about what it leaves as it is, complex numbers for one
            fast()
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        raise SpecgenError(
            f"torch.compile fails on this model: {_first_line(error)}", hint="run it without --compile"
        ) from error
    return fast


def choose_capture(device: torch.device, *, compile_steps: bool) -> Callable[[], Capture] | None:
    """What makes a capture for a device, None where steps are not to be static at all: on a CPU, unless compiled."""
    if device.type == "cuda":
        return _compiled_graphs if compile_steps else CudaGraphs
    if compile_steps:
        return lambda: compiled
    return None if device.type == "cpu" else lambda: lambda step: step


def _compiled_graphs() -> Capture:
    graphs = CudaGraphs()
    return lambda step: graphs(compiled(step))


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
