"""Opening a pair: find both models, prove that they fit, load them."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, TypeVar

import torch

from specgen.checkpoint.checkpoint import Checkpoint, check_backend, fetch_all, fetch_weights, find
from specgen.checkpoint.provenance import loaded_model
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, LoadedModel, Notice, Progress
from specgen.core.progress import Reporting
from specgen.core.types import AUTO, LOOKUP, NONE, EngineOptions, ModelRef
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.nn.device import Placement, choose_device, place
from specgen.nn.interface import Runner
from specgen.nn.lean.graphs import choose_capture
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.session.draft_selection import check_draft, choose_draft, smaller_draft
from specgen.session.memory_plan import MemoryPlan, check, plan_pair
from specgen.session.prompt import compare

# The context of a model that names no limit of its own (recurrent ones).
UNLIMITED = 1 << 20

T = TypeVar("T")
PromptCheck: TypeAlias = Callable[[Tokenizer, int], object]
"""Looks at a prompt with the target's tokenizer and the length of the context, and raises what is wrong with it."""
Evict: TypeAlias = Callable[[MemoryPlan], Generator[Event, None, MemoryPlan]]
"""Frees memory for a pair where others hold it. Gives the plan with what is free then."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its drafter, loaded. `context_length` is in tokens, prompt and answer together.

    `draft` is the model that the drafter drafts with, None for other drafters; `shared_vocab` see ModelDrafter.
    `options` are those it was opened with.
    """

    target: Runner
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    drafter: Drafter
    drafter_name: str
    draft_checkpoint: Checkpoint | None
    placement: Placement
    context_length: int
    draft: Runner | None = None
    draft_placement: Placement | None = None
    shared_vocab: int = 0
    options: EngineOptions = field(default_factory=EngineOptions)

    @property
    def loaded_target(self) -> LoadedModel:
        return loaded_model(self.checkpoint)

    @property
    def loaded_draft(self) -> LoadedModel | None:
        return loaded_model(self.draft_checkpoint) if self.draft_checkpoint else None


Opener: TypeAlias = Callable[[ModelRef, str, EngineOptions, PromptCheck | None], Generator[Event, None, Pair]]
"""Loads a pair as open_pair does."""


@dataclass(frozen=True, slots=True)
class ResolvedPair:
    """A pair before anything large is fetched or loaded. `drafter` is what was asked for, `auto` settled.

    `compared` is what prompt.compare gives, where choosing a draft took it.
    """

    checkpoint: Checkpoint
    drafter: str
    draft: Checkpoint | None
    plan: MemoryPlan
    device: torch.device
    compared: tuple[Tokenizer, int] | None = None


def resolve_pair(target: ModelRef, draft: str, options: EngineOptions) -> Reporting[ResolvedPair]:
    """Find both models, choosing the draft where that is left to specgen, and plan the memory for them."""
    device = choose_device(options.device)
    checkpoint = yield from _find(target, options)
    draft, draft_checkpoint, compared = yield from _settled(draft, checkpoint, options, device)
    for each in filter(None, (checkpoint, draft_checkpoint)):
        check_backend(each)
    plan = plan_pair(checkpoint, draft_checkpoint, options, device)
    return ResolvedPair(checkpoint, draft, draft_checkpoint, plan, device, compared)


def _settled(
    draft: str, target: Checkpoint, options: EngineOptions, device: torch.device
) -> Reporting[tuple[str, Checkpoint | None, tuple[Tokenizer, int] | None]]:
    """What `draft` asks for, `auto` settled; its model, if any; what tokenizing.compare gave, if choosing took it."""
    if draft == AUTO:
        chosen = yield from choose_draft(target, options, device)
        if chosen.why:
            yield Notice(chosen.why)
        return LOOKUP, chosen.checkpoint, chosen.compared
    if draft in (LOOKUP, NONE):
        return draft, None, None
    return draft, (yield from _find(ModelRef.parse(draft), options)), None


def open_pair(
    target: ModelRef,
    draft: str,
    options: EngineOptions,
    examine: PromptCheck | None = None,
    make_room: Evict | None = None,
) -> Generator[Event, None, Pair]:
    """Load `target` with `draft` (a model, `lookup`, `none` or `auto`), yielding what a person should know meanwhile.

    Tokenizers are read and compared while weights are loaded, but before any are downloaded: a draft may not fit. So
    is the memory that both take: a draft that does not fit beside the target gives way to lookup. A target that takes
    what several devices have is loaded after its draft. `examine` is called
    as soon as the tokenizer is there, and what it raises ends the loading.
    """
    prepared = yield from resolve_pair(target, draft, options)
    draft, device = prepared.drafter, prepared.device
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    checkpoint, draft_checkpoint = prepared.checkpoint, prepared.draft
    plan = (yield from make_room(prepared.plan)) if make_room else prepared.plan
    if dropped := check(plan, options):
        smaller = yield from smaller_draft(plan, replace(options, offline=True))
        yield Notice(f"{dropped}; a draft that fits: -d {smaller}" if smaller else dropped)
        draft, draft_checkpoint = LOOKUP, None
    models = [checkpoint] if draft_checkpoint is None else [checkpoint, draft_checkpoint]
    with ThreadPoolExecutor(max_workers=1) as pool:
        comparing = pool.submit(_compared, prepared, checkpoint, draft_checkpoint, options, examine)
        if not all(each.is_complete for each in models):
            comparing.result()
            yield from fetch_all(models, offline=options.offline)
        for each in models:  # a large file that was never hashed is read while it is loaded
            pool.submit(loaded_model, each)
        before: tuple[Runner, Placement] | None = None
        try:
            if draft_checkpoint and plan.target.placement.spread:  # over all that is free then
                before = yield from _unless_failed(comparing, _ready(draft_checkpoint, device, options))
            model, placement = yield from _unless_failed(comparing, _ready(checkpoint, device, options))
        except SpecgenError:
            comparing.result()  # what is wrong with the prompt or the pair would be wrong with whole weights, too
            raise
        tokenizer, shared = comparing.result()
    pair = Pair(
        target=model,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        drafter=LookupDrafter() if draft == LOOKUP else NoDrafter(),
        drafter_name=draft,
        draft_checkpoint=draft_checkpoint,
        placement=placement,
        context_length=min(options.ctx_size or UNLIMITED, model.context_length or UNLIMITED),
        options=options,
    )
    if draft != NONE and not model.can_verify:
        yield Notice(f"{target} cannot take back a rejected token, so nothing is drafted")
        return replace(pair, drafter=NoDrafter(), drafter_name=NONE, draft_checkpoint=None)
    if draft_checkpoint is None:
        return pair
    drafting = before or (yield from _ready(draft_checkpoint, device, options))
    return _with_model(pair, draft_checkpoint, drafting, shared, options)


def with_draft(pair: Pair, draft: str, options: EngineOptions) -> Generator[Event, None, Pair]:
    """`pair` with another draft (named as for open_pair), its target as it is. Raises SpecgenError."""
    device = choose_device(options.device)
    draft, checkpoint, compared = yield from _settled(draft, pair.checkpoint, options, device)
    # The target goes on as it was loaded.
    options = replace(options, threads=pair.options.threads, quant=pair.options.quant)
    if draft != NONE and not pair.target.can_verify:
        yield Notice(f"{pair.checkpoint.ref} cannot take back a rejected token, so nothing is drafted")
        draft, checkpoint = NONE, None
    alone = replace(
        pair,
        drafter=LookupDrafter() if draft == LOOKUP else NoDrafter(),
        drafter_name=draft,
        draft_checkpoint=None,
        draft=None,
        draft_placement=None,
        shared_vocab=0,
        options=options,
    )
    if checkpoint is None:
        return alone
    check_backend(checkpoint)
    _, shared = compared or compare(pair.checkpoint, checkpoint, options)
    yield from check_draft(plan_pair(pair.checkpoint, checkpoint, options, device), options)
    drafting = yield from _ready(checkpoint, device, options)
    return _with_model(alone, checkpoint, drafting, shared, options)


def _with_model(
    pair: Pair, checkpoint: Checkpoint, loaded: tuple[Runner, Placement], shared: int, options: EngineOptions
) -> Pair:
    """`pair` with the model of `checkpoint`, whose first `shared` ids mean the same, as its draft."""
    model, placement = loaded
    shared = min(shared, pair.target.vocab_size)
    by_model = ModelDrafter(model, shared, model.context_length or UNLIMITED)
    return replace(
        pair,
        drafter=HybridDrafter(LookupDrafter(), by_model) if options.lookup else by_model,
        drafter_name="hybrid" if options.lookup else "model",
        draft_checkpoint=checkpoint,
        draft=model,
        draft_placement=placement,
        shared_vocab=shared,
    )


def _compared(
    prepared: ResolvedPair,
    target: Checkpoint,
    draft: Checkpoint | None,
    options: EngineOptions,
    examine: PromptCheck | None,
) -> tuple[Tokenizer, int]:
    tokenizer, shared = prepared.compared or compare(target, draft, options)
    if examine and prepared.plan.longest:
        examine(tokenizer, prepared.plan.longest)
    return tokenizer, shared


def _unless_failed(other: Future[Any], events: Generator[Event, None, T]) -> Generator[Event, None, T]:
    """`events` and their result; what `other` raises, once it has, ends them."""
    try:
        while True:
            event = next(events)
            if other.done():
                other.result()
            yield event
    except StopIteration as finished:
        result: T = finished.value
        return result
    finally:
        events.close()


def find_again(checkpoint: Checkpoint, options: EngineOptions) -> Reporting[Checkpoint]:
    """What the name of a model that is loaded means now."""
    return (yield from _find(checkpoint.ref, options))


def _find(ref: ModelRef, options: EngineOptions) -> Reporting[Checkpoint]:
    return find(ref, offline=options.offline, trust_remote_code=options.trust_remote_code)


def _ready(
    checkpoint: Checkpoint, device: torch.device, options: EngineOptions
) -> Generator[Event, None, tuple[Runner, Placement]]:
    """The model of `checkpoint`, fetched if need be, and loaded."""
    yield from fetch_weights(checkpoint, offline=options.offline)
    return (yield from _load(checkpoint, device, options))


def _load(
    checkpoint: Checkpoint, device: torch.device, options: EngineOptions
) -> Generator[Event, None, tuple[Runner, Placement]]:
    """Our own decoder where it knows the model, else transformers."""
    yield Progress(f"loading {checkpoint.ref.name}")
    architecture = read_checkpoint_architecture(checkpoint)
    lean = not isinstance(architecture, str)
    placement = place(device, options, checkpoint.weight_bytes, lean=lean)
    if placement.spread:
        architecture = "its layers are spread over several GPUs"
    if not isinstance(architecture, str):
        new_capture = choose_capture(device, compile_steps=options.compile)
        try:
            context = min(options.ctx_size or UNLIMITED, architecture.context_length)
            model = yield from load_decoder(checkpoint, architecture, placement, context, new_capture)
            return model, placement
        except NotImplementedError as error:  # how torch says that a device lacks an operation
            architecture = f"the lean decoder does not run on {device.type}: {str(error).partition('.')[0]}"
    if options.verbose or options.compile:
        without = ", without --compile" if options.compile else ""
        yield Notice(f"{checkpoint.ref.name} runs on transformers{without}: {architecture}")
    from specgen.nn.transformers.model import load_model  # noqa: PLC0415 - seconds that most models need not wait

    return load_model(checkpoint, placement, trust_remote_code=options.trust_remote_code), placement
