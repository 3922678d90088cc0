"""A pass over static buffers computes what the eager one does, never waits for its device, and can be captured."""

import contextlib
import random
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from specgen import Session
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.cli.options import ModelOptions
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, ModelRef, SamplingParams
from specgen.engine.decode import Limits, decode
from specgen.engine.drafters.interface import DraftPlan, Proposal
from specgen.engine.pacing.controller import FixedController
from specgen.engine.sampling import sampler as sampling
from specgen.engine.sampling.sampler import Sampler
from specgen.nn.device import Placement
from specgen.nn.lean import fusion, graphs, static
from specgen.nn.lean import model as decoder
from specgen.nn.lean.caching import Context
from specgen.nn.lean.graphs import Capture, CudaGraphs, Step, choose_capture
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.lean.static import StaticModel
from tests.checkpoints import Checkpoints
from tests.fakes import rounds, tokens_of
from tests.nn.lean.checkpoints import MODELS, VOCAB, load, save

IDS = random.Random(1).choices(range(VOCAB), k=300)
CPU, META = torch.device("cpu"), torch.device("meta")

pytestmark = pytest.mark.usefixtures("one_thread")


class Tape(TorchDispatchMode):
    """What a CUDA graph does, on a CPU: it records operations with their memory and numbers, and repeats just these."""

    def __init__(self) -> None:
        super().__init__()
        self.operations: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations.append((func, args, kwargs or {}, result))
        return result

    def replay(self) -> None:
        for func, args, kwargs, result in self.operations:
            for old, new in zip(tree_leaves(result), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


class Tapes:
    """A capture that counts what it is asked for."""

    def __init__(self) -> None:
        self.captured = self.replayed = 0

    def __call__(self, step: Step) -> Step:
        self.captured += 1
        with Tape() as tape:
            results = step()

        def replay() -> tuple[torch.Tensor, ...]:
            self.replayed += 1
            for result in results:
                result.fill_(torch.nan)
            tape.replay()
            return results

        return replay


class NeverWaits(TorchDispatchMode):
    """Rejects operations that read or make tensors off the device, numbers apart."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs, result)):
            if isinstance(value, torch.Tensor) and value.device.type != "meta":
                assert value.dim() == 0, f"{func} of a tensor on {value.device}"
        return result


@pytest.fixture(scope="module", params=MODELS)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("model"), **MODELS[request.param])


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(tmp_path_factory.mktemp("gemma"), **MODELS["gemma2"])


def load_static(
    folder: Path,
    capture: Capture,
    device: torch.device = CPU,
    events: list[Event] | None = None,
    *,
    exact: bool = True,
) -> StaticModel:
    checkpoint = Checkpoint(ModelRef(str(folder)), folder)
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str), architecture
    placement = Placement(device, torch.float32)
    shown = (lambda _: None) if events is None else events.append
    model = follow(load_decoder(checkpoint, architecture, placement, 1024, lambda: capture, exact=exact), shown)
    assert isinstance(model, StaticModel)
    return model


def same(rows: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(rows, expected, atol=1e-5, rtol=1e-5)


def test_static_passes_compute_what_eager_ones_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a prompt, in rounds of every width with tokens taken back, over windows and the ends of three caches."""
    monkeypatch.setattr(decoder, "FIRST", 64)
    tapes, dice = Tapes(), random.Random(2)
    model, plain = load_static(folder, tapes), load(folder)
    context = Tokens(IDS[:50])
    while len(context) < 200:
        proposal = dice.choices(range(VOCAB), k=dice.randint(0, 9))
        tried = context + proposal
        same(model.forward(tried, len(proposal) + 1), plain.forward(tried, len(proposal) + 1))
        accepted = dice.randint(0, len(proposal))
        context = context.grow([*proposal[:accepted], dice.randrange(VOCAB)])
    assert tapes.captured == 3, "while it loads, and for each larger cache"
    assert tapes.replayed > 30


def test_one_graph_serves_every_width_until_the_cache_grows(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "FIRST", 64)
    tapes = Tapes()
    model = load_static(gemma, tapes)
    assert tapes.captured == 1, "while it loads"
    model.forward(Tokens(IDS[:30]), 2)
    for end in (31, 33, 34, 36, 56):
        model.forward(Tokens(IDS[:end]), 1)
    assert tapes.captured == 1
    model.forward(Tokens(IDS[:57]), 1)
    model.forward(Tokens(IDS[:66]), 1)
    assert tapes.captured == 2, "rows that pad a pass need room too"


def test_without_exactness_a_pass_has_the_rows_that_are_asked_for(gemma: Path) -> None:
    tapes, plain = Tapes(), load(gemma)
    model = load_static(gemma, tapes, exact=False)
    for end, last in ((30, 3), (31, 1), (34, 3), (35, 1)):
        same(model.forward(Tokens(IDS[:end]), last), plain.forward(Tokens(IDS[:end]), last))
    assert tapes.captured == 2, "1 row and 3 rows"


def test_old_graphs_are_freed_before_larger_caches_are_allocated(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "FIRST", 64)
    grown: list[bool] = []
    steps: list[weakref.ref[Any]] = []

    def capture(step: Step) -> Step:
        def captured() -> tuple[torch.Tensor, ...]:
            return step()

        steps.append(weakref.ref(captured))
        return captured

    def reserve(
        model: decoder.LeanModel, context: Context, length: int, reserve: Any = decoder.LeanModel._reserve
    ) -> None:
        grown.append(all(step() is None for step in steps))
        reserve(model, context, length)

    monkeypatch.setattr(decoder.LeanModel, "_reserve", reserve)
    model = load_static(gemma, capture)
    for end in (40, 100):
        model.forward(Tokens(IDS[:end]), 1)
    assert grown == [True, True], "while it loads, and once more"


class Recited:
    """A drafter that proposes the next `k` of known tokens."""

    def __init__(self, ids: list[int], k: int) -> None:
        self._ids, self._k = ids, k

    def propose(self, context: Tokens, plan: DraftPlan) -> Proposal:
        tokens = tuple(self._ids[len(context) : len(context) + min(self._k, plan.limit)])
        return Proposal(tokens, ("draft",) * len(tokens))


def rounding_by_width(folder: Path) -> StaticModel:
    """A model whose bits depend on the rows of a pass, as those of products on a GPU do."""
    model = load_static(folder, Tapes())
    embed = model._weights.embed
    model._weights = replace(model._weights, embed=lambda ids: embed(ids) * (1 + 1e-3 * len(ids)))
    model._graphs.clear()
    return model


@pytest.mark.parametrize("drafted", [0, 3, 6])
@pytest.mark.parametrize("more", [0, 3, 4, 60])
def test_an_answer_after_a_stopped_one_has_the_bits_of_a_fresh_model(
    gemma: Path, monkeypatch: pytest.MonkeyPatch, drafted: int, more: int
) -> None:
    """A stop string ends an answer after any round. Its tokens and drafted ones may begin the next prompt."""
    monkeypatch.setattr(static, "CHUNK", 32)
    prompt = IDS[:50]
    whole = tokens_of(rounds(rounding_by_width(gemma), prompt, new=40))
    model = rounding_by_width(gemma)
    seen: list[torch.Tensor] = []
    forward = StaticModel._forward

    def note(model: StaticModel, tokens: Tokens, last: int) -> torch.Tensor:
        seen.append(forward(model, tokens, last))
        return seen[-1]

    monkeypatch.setattr(StaticModel, "_forward", note)
    limits = Limits(len(prompt) + 40, "length", frozenset())
    drafter = Recited([*prompt, *whole], drafted)
    running = decode(model, drafter, Tokens(prompt), Sampler(SamplingParams(), 50), limits, FixedController(drafted))
    for _ in range(3):
        next(running)
    running.close()
    again = [*prompt, *whole][: 50 + more] if more < 60 else IDS[:20] + IDS[60:200]
    texts, bits = [], []
    for each in (model, rounding_by_width(gemma)):
        seen.clear()
        texts.append(tokens_of(rounds(each, again, new=12)))
        bits.append(torch.cat(seen[:12]))
    assert texts[0] == texts[1]
    assert torch.equal(*bits)


def test_a_prompt_that_is_asked_again_is_not_read_again(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = load_static(gemma, Tapes())
    fed: list[int] = []
    read = model._read
    monkeypatch.setattr(model, "_read", lambda tokens: (fed.append(len(tokens)), read(tokens)))
    for _ in range(2):
        rounds(model, IDS[:40], new=5)
    assert fed == [39]


def test_a_new_turn_is_read_alike_however_the_answer_before_it_came(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Plain decoding leaves the last token of an answer unread; a draft may leave more tokens behind it."""
    monkeypatch.setattr(static, "CHUNK", 32)
    turns = []
    for ends in ([(41, 1), (42, 1), (43, 1), (44, 1)], [(41, 1), (46, 5)]):
        model = load_static(gemma, Tapes())
        fed: list[tuple[int, int]] = []
        read = model._read

        def note(tokens: Tokens, model: StaticModel = model, read: Any = read, fed: Any = fed) -> None:
            fed.append((len(model._context.tokens), len(tokens)))
            read(tokens)

        monkeypatch.setattr(model, "_read", note)
        model.begin_answer()
        for end, last in ends:
            model.forward(Tokens(IDS[:end]), last)
        model.begin_answer()
        same(model.forward(Tokens(IDS[:90]), 1), load(gemma).forward(Tokens(IDS[:90]), 1))
        turns.append(fed)
    assert turns[0] == turns[1] == [(0, 32), (32, 64), (64, 89)]


def test_how_a_prompt_is_read_does_not_depend_on_what_is_drafted_after_it(
    gemma: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Prompt tokens are fed by the same passes whether one token is scored after them, or five."""
    model = load_static(gemma, Tapes())
    fed: list[tuple[int, int]] = []
    read = model._read

    def note(tokens: Tokens) -> None:
        fed.append((len(model._context.tokens), len(tokens)))
        read(tokens)

    monkeypatch.setattr(model, "_read", note)
    for prompt in (5, 9, 12, 40):
        passes = []
        for drafted in (0, 4, 12):
            model._context.tokens = Tokens()
            fed.clear()
            model.forward(Tokens(IDS[: prompt + drafted]), drafted + 1)
            passes.append(list(fed))
        assert passes[0] == passes[1] == passes[2], prompt


def test_long_passes_are_not_captured(gemma: Path) -> None:
    tapes = Tapes()
    model = load_static(gemma, tapes)
    rows = model.forward(Tokens(IDS), 17)
    assert tapes.captured == 1
    expected = load(gemma).forward(Tokens(IDS), 17)
    same(rows, expected)


def test_results_outlive_the_next_pass(gemma: Path) -> None:
    model, plain = load_static(gemma, Tapes()), load(gemma)
    first = model.forward(Tokens(IDS[:40]), 3)
    model.forward(Tokens(IDS[:43]), 3)
    expected = plain.forward(Tokens(IDS[:40]), 3)
    same(first, expected)


def test_a_token_that_does_not_exist_never_reaches_the_device(gemma: Path) -> None:
    with pytest.raises(IndexError):
        load_static(gemma, lambda step: step, META).forward(Tokens([*IDS[:10], VOCAB]), 1)
    model, plain = load_static(gemma, Tapes()), load(gemma)
    with pytest.raises(IndexError):
        model.forward(Tokens([*IDS[:10], VOCAB]), 1)
    same(model.forward(Tokens(IDS[:20]), 2), plain.forward(Tokens(IDS[:20]), 2))


def test_a_step_never_waits_for_its_device(folder: Path) -> None:
    """On meta tensors, which have no numbers to look at."""
    guarded = 0

    def guard(step: Step) -> Step:
        def guarded_step() -> tuple[torch.Tensor, ...]:
            nonlocal guarded
            guarded += 1
            with NeverWaits():
                return step()

        return guarded_step

    model = load_static(folder, guard, META)
    for last in (1, 5):
        rows = model.forward(Tokens(IDS[:100]), last)
        assert rows.shape == (last, VOCAB)
        assert rows.is_meta
    assert guarded == 3


@pytest.mark.parametrize(
    "wait",
    [
        lambda logits: logits.argmax().item(),
        lambda logits: logits.tolist(),
        lambda logits: logits.cpu(),
        lambda logits: logits.nonzero(),
        lambda logits: torch.arange(3) + 1,
    ],
)
def test_the_guard_of_that_test_notices_what_waits(gemma: Path, wait: Callable[[torch.Tensor], Any]) -> None:
    def guard(step: Step) -> Step:
        def waiting() -> tuple[torch.Tensor, ...]:
            with NeverWaits():
                results = step()
                wait(results[0])
                return results

        return waiting

    with pytest.raises((RuntimeError, NotImplementedError, AssertionError)):
        load_static(gemma, guard, META)


def test_a_capture_that_fails_is_told_once_and_the_text_is_the_same(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(step: Step) -> Step:
        raise RuntimeError("capture is not permitted\nand more lines")

    monkeypatch.setattr("specgen.session.loading.choose_capture", lambda device, *, compile_steps: lambda: fail)
    events = answer(checkpoints)
    notices = [event.text for event in events if isinstance(event, Notice) and "CUDA" in event.text]
    assert [text.partition(" runs ")[2] for text in notices] == [
        "without CUDA graphs, which is slower: capture is not permitted"
    ] * 2, "of the target, and of the draft"
    monkeypatch.undo()
    assert tokens_of(events) == tokens_of(answer(checkpoints))


def test_a_device_that_lacks_an_operation_gets_transformers(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lacking(step: Step) -> Step:
        def run() -> tuple[torch.Tensor, ...]:
            raise NotImplementedError("The operator 'aten::x' is not implemented for this device. More words.")

        return run

    expected = answer(checkpoints)
    monkeypatch.setattr("specgen.session.loading.choose_capture", lambda device, *, compile_steps: lambda: lacking)
    events = answer(checkpoints, verbose=True)
    notices = [event.text for event in events if isinstance(event, Notice) and "lean" in event.text]
    assert len(notices) == 2
    assert notices[0].endswith(
        "runs on transformers: the lean decoder does not run on cpu: "
        "The operator 'aten::x' is not implemented for this device"
    )
    assert tokens_of(events) == tokens_of(expected)


@pytest.mark.parametrize("failing", ["rms_norm", "gate", "rotate_and_store", "attend"])
@pytest.mark.parametrize("fault", [RuntimeError("out of resource: shared memory\nmore"), None])
def test_a_fused_kernel_that_fails_at_the_models_shapes_is_told_and_replaced(
    gemma: Path, failing: str, fault: Exception | None, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    """Each is tried once before the model is loaded. A result that is not finite is a failure too."""
    kernels = ModuleType("kernels")
    tried: list[str] = []

    def kernel(name: str) -> Callable[..., Any]:
        def run(rows: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
            tried.append(name)
            if name == failing and (fault or name == "rotate_and_store"):
                raise fault or RuntimeError("a kernel turns zeros into infinities")
            return rows.new_full((8, 1), torch.inf if name == failing else 0.0)

        return run

    for name in ("rms_norm", "gate", "rotate_and_store", "attend"):
        setattr(kernels, name, kernel(name))
    monkeypatch.setattr(fusion, "load_kernels", lambda _: kernels)
    fusion.choose_kernels.cache_clear()
    request.addfinalizer(fusion.choose_kernels.cache_clear)
    events = list[Event]()
    model = load_static(gemma, lambda step: step, events=events)
    count = len(tried)
    load_static(gemma, lambda step: step)
    assert len(tried) == count, "once for both"
    (notice,) = (event.text for event in events if isinstance(event, Notice))
    reason = "out of resource: shared memory" if fault else "a kernel turns zeros into infinities"
    assert notice == (
        f"{gemma} runs without fused kernels ({reason}), so passes are slower, and a draft may change the text where "
        "two tokens score nearly alike"
    )
    same(model.forward(Tokens(IDS[:30]), 2), load(gemma).forward(Tokens(IDS[:30]), 2))


class FakeCuda:
    """As much of torch.cuda as a capture uses, and what became of its streams."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stream, self.replays, self.pools, self.sides = "first", 0, list[object](), list[Stream]()
        monkeypatch.setattr(torch.cuda, "graph_pool_handle", object)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: Stream(self, self.stream))
        monkeypatch.setattr(torch.cuda, "set_stream", lambda stream: setattr(self, "stream", stream.name))
        monkeypatch.setattr(torch.cuda, "Stream", self._new_stream)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
        graphs._side_stream.cache_clear()
        monkeypatch.setattr(torch.cuda, "stream", self._on)
        monkeypatch.setattr(torch.cuda, "CUDAGraph", lambda: self)
        monkeypatch.setattr(torch.cuda, "graph", self._capturing)

    def replay(self) -> None:
        self.replays += 1

    def _new_stream(self) -> "Stream":
        self.sides.append(Stream(self, "side"))
        return self.sides[-1]

    @contextlib.contextmanager
    def _on(self, stream: "Stream") -> Iterator[None]:
        self.stream, before = stream.name, self.stream
        yield
        self.stream = before

    @contextlib.contextmanager
    def _capturing(self, graph: object, pool: object, stream: "Stream", capture_error_mode: str) -> Iterator[None]:
        """Like torch's, it leaves its stream behind when the capture fails."""
        assert capture_error_mode == "thread_local", "another thread may not break it"
        assert stream is self.sides[0], "memory that the first run freed serves the capture"
        self.pools.append(pool)
        self.stream, before = "capturing", self.stream
        yield
        self.stream = before


@dataclass
class Stream:
    cuda: FakeCuda
    name: str

    def wait_stream(self, other: "Stream") -> None:
        pass


def test_a_graph_is_recorded_after_a_first_run_and_then_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)
    ran_on: list[str] = []

    def step() -> tuple[torch.Tensor, ...]:
        ran_on.append(cuda.stream)
        return (torch.tensor(len(ran_on)),)

    capture = CudaGraphs()
    replay = capture(step)
    assert [result.item() for result in (*replay(), *replay())] == [2, 2]
    assert (ran_on, cuda.replays, cuda.stream) == (["side", "capturing"], 2, "first")
    capture(step)
    assert cuda.pools[0] is cuda.pools[1], "graphs of one model share their memory"
    CudaGraphs()(step)
    assert len(cuda.sides) == 1, "a stream holds the memory that was freed on it"


def test_a_capture_that_fails_gives_the_stream_back(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = FakeCuda(monkeypatch)

    def step() -> tuple[torch.Tensor, ...]:
        if cuda.stream == "capturing":
            raise RuntimeError("not permitted")
        return ()

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaGraphs()(step)
    assert cuda.stream == "first"


def test_a_capture_that_fails_later_is_one_warning(gemma: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder, "FIRST", 64)
    tapes, events = Tapes(), list[Event]()

    def fail_later(step: Step) -> Step:
        if tapes.captured:
            raise torch.OutOfMemoryError("no room")
        return tapes(step)

    model, plain = load_static(gemma, fail_later, events=events), load(gemma)
    assert not [event for event in events if isinstance(event, Notice)]
    expected = [plain.forward(Tokens(IDS[:end]), last) for end, last in ((70, 2), (73, 3))]
    with pytest.warns(UserWarning, match="CUDA graphs fail from here on, which is slower: no room"):
        rows = model.forward(Tokens(IDS[:70]), 2)
    same(rows, expected[0])
    same(model.forward(Tokens(IDS[:73]), 3), expected[1])  # without a second warning, which would be an error


def answer(checkpoints: Checkpoints, **options: Any) -> list[Event]:
    session = Session(
        str(checkpoints.target("gemma3")), str(checkpoints.draft("gemma3")), EngineOptions(threads=1, **options)
    )
    return list(session.generate("the lazy dog", raw=True, max_new_tokens=40))


def test_the_text_is_the_same_with_captured_steps(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    tapes = Tapes()
    monkeypatch.setattr("specgen.session.loading.choose_capture", lambda device, *, compile_steps: lambda: tapes)
    events = answer(checkpoints)
    assert isinstance(events[-1], Finished), events[-1]
    assert tapes.replayed > 2 * tapes.captured > 0
    monkeypatch.undo()
    assert tokens_of(events) == tokens_of(answer(checkpoints))


def test_what_captures_where() -> None:
    assert choose_capture(CPU, compile_steps=False) is None
    assert choose_capture(torch.device("cuda"), compile_steps=False) is CudaGraphs
    for name in ("mps", "xpu"):
        new_capture = choose_capture(torch.device(name), compile_steps=False)
        assert new_capture is not None
        step = tuple[torch.Tensor, ...]
        assert new_capture()(step) is step, "eager"


def test_compile_reaches_the_passes(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[dict[str, Any]] = []

    def fake(step: Step, **options: Any) -> Step:
        made.append(options)
        return step

    monkeypatch.setattr(torch, "compile", fake)
    assert not ModelOptions().engine().compile
    assert ModelOptions(compile=True).engine().compile
    plain = answer(checkpoints)
    assert not made
    assert tokens_of(answer(checkpoints, compile=True)) == tokens_of(plain)
    assert made
    assert all(options == {"dynamic": False} for options in made)


def test_what_cannot_be_compiled_is_one_line(checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch) -> None:
    def fake(step: Step, **options: Any) -> Step:
        def run() -> tuple[torch.Tensor, ...]:
            raise RuntimeError("InvalidCxxCompiler: no compiler\n\nSet TORCHDYNAMO_VERBOSE=1")

        return run

    monkeypatch.setattr(torch, "compile", fake)
    last = answer(checkpoints, compile=True)[-1]
    assert isinstance(last, Failed)
    assert type(last.error) is SpecgenError
    assert str(last.error) == (
        "torch.compile fails on this model: InvalidCxxCompiler: no compiler; run it without --compile"
    )


class Counter(TorchDispatchMode):
    """Counts single numbers that are read from tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_greedy_picks_are_read_at_once() -> None:
    logits = torch.randn(5, VOCAB)
    with Counter() as counter:
        picks = Sampler(SamplingParams(), 1).pick(logits, Tokens(IDS[:1]), IDS[1:5])
    assert picks == [int(row.argmax()) for row in logits]
    assert counter.count == 0


class Without64(TorchDispatchMode):
    """Rejects float64, which MPS and some other devices lack."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            assert not isinstance(value, torch.Tensor) or value.dtype != torch.float64, f"{func} makes float64"
        return result


SAMPLED = SamplingParams(temperature=0.8, top_p=0.9, seed=1)


@pytest.mark.parametrize("params", [SamplingParams(), SAMPLED])
def test_the_sampler_of_a_device_needs_no_float64(params: SamplingParams) -> None:
    logits, context = torch.randn(3, VOCAB), Tokens(IDS[:5])
    sampler = Sampler(params, 3)
    with Without64():
        found = sampler._pick_on_device(logits, context, logits)
    assert [token for token, _ in found] == sampler.pick(logits, context, IDS[5:7])


@pytest.mark.parametrize("rows", [1, 3, 8, 9, 17])
def test_rows_that_are_summed_have_one_shape_whatever_is_drafted(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel for 1 row, or for 16, may sum in another order than one for 8."""
    shapes = []
    pick_rows = sampling.pick_rows

    def note(logits: torch.Tensor, *given: Any, **more: Any) -> Any:
        shapes.append(len(logits))
        return pick_rows(logits, *given, **more)

    monkeypatch.setattr(sampling, "pick_rows", note)
    logits, context, drafted = torch.randn(rows, VOCAB), Tokens(IDS[:5]), IDS[5 : 4 + rows]
    found = Sampler(SAMPLED, 3)._pick_in_groups(logits, context, drafted)
    assert set(shapes) == {8}
    assert found == Sampler(SAMPLED, 3).pick(logits, context, drafted)
