"""Open a pair: find both models, choose the draft, check memory, download and load."""

from collections.abc import Callable, Generator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from threading import Thread
from typing import Any, TypeAlias, TypeVar

import torch

from specgen.checkpoint.byte_map import ByteMap
from specgen.checkpoint.chat_template import start_renderer
from specgen.checkpoint.checkpoint import Checkpoint, check_backend, fetch_all, fetch_weights, find
from specgen.checkpoint.drafter_format import is_head
from specgen.checkpoint.provenance import loaded_model
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.checkpoint.vocabulary import SharedVocabulary
from specgen.core.errors import SpecgenError, UsageError
from specgen.core.events import Event, Notice, Progress
from specgen.core.progress import Reporting
from specgen.core.types import AUTO, LOOKUP, NONE, EngineOptions, ModelRef
from specgen.engine.drafters.interface import NoDrafter
from specgen.nn.device import Placement, choose_device, place, rest_torch, use_threads
from specgen.nn.heads.load import load_head, tapped_states
from specgen.nn.heads.reader import HeadReader
from specgen.nn.interface import Runner
from specgen.nn.lean.graphs import choose_capture
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.session.draft_selection import check_draft_memory, choose_draft, smaller_draft
from specgen.session.memory_plan import MemoryPlan, check_memory, plan_pair, read_early_architecture
from specgen.session.pair import UNLIMITED, Pair
from specgen.session.prompt import compare_tokenizers, tokenizer_warning

# Interval of Progress events while a thread is waited for, in seconds.
_TICK_S = 0.1

T = TypeVar("T")
PromptCheck: TypeAlias = Callable[[Tokenizer, int], object]
"""Checks a prompt with the target's tokenizer and the context length in tokens; raises what is wrong with it."""
Evict: TypeAlias = Callable[[MemoryPlan], Generator[Event, None, MemoryPlan]]
"""Evicts other loaded pairs until the plan fits; returns the plan with the memory now free."""
Opener: TypeAlias = Callable[[ModelRef, str, EngineOptions, PromptCheck | None], Generator[Event, None, Pair]]
"""Loads a pair like open_pair."""


@dataclass(frozen=True, slots=True)
class ResolvedPair:
    """A pair that was found but not downloaded or loaded. `drafter` is never `auto`.

    `draft` is None for `lookup` and `none`. `comparison` is the result of compare_tokenizers, where the choice of the
    draft computed it.
    """

    target: Checkpoint
    drafter: str
    draft: Checkpoint | None
    plan: MemoryPlan
    device: torch.device
    comparison: tuple[Tokenizer, SharedVocabulary] | None = None


def resolve_pair(target: ModelRef, draft: str, options: EngineOptions) -> Reporting[ResolvedPair]:
    """Find both models, choose the draft for `auto`, and plan the memory. Raises SpecgenError."""
    device = choose_device(options.device)
    found = yield from _find(target, options)
    if is_head(found):
        raise UsageError(f"{found.ref} is a head, which only drafts", hint="name it with -d beside its target")
    drafter, draft_found, comparison = yield from _resolve_draft(draft, found, options, device)
    for each in filter(None, (found, draft_found)):
        check_backend(each)
    plan = plan_pair(found, draft_found, options, device)
    return ResolvedPair(found, drafter, draft_found, plan, device, comparison)


def _resolve_draft(
    draft: str, target: Checkpoint, options: EngineOptions, device: torch.device
) -> Reporting[tuple[str, Checkpoint | None, tuple[Tokenizer, SharedVocabulary] | None]]:
    """The drafter without `auto`, its model, and the comparison of tokenizers where the choice computed it."""
    if draft == AUTO:
        chosen = yield from choose_draft(target, options, device)
        if chosen.why:
            yield Notice(chosen.why)
        return LOOKUP, chosen.checkpoint, chosen.comparison
    if draft in (LOOKUP, NONE):
        return draft, None, None
    return draft, (yield from _find(ModelRef.parse(draft), options)), None


def open_pair(
    target: ModelRef,
    draft: str,
    options: EngineOptions,
    check_prompt: PromptCheck | None = None,
    evict: Evict | None = None,
) -> Generator[Event, None, Pair]:
    """Load `target` with `draft`: a model, `lookup`, `none` or `auto`. Raises SpecgenError.

    Tokenizers are compared and memory is planned before any download, since the draft may be rejected. Lookup replaces
    a draft that does not fit beside the target. `check_prompt` is called as soon as the tokenizer is read; its
    exception ends the loading.
    """
    resolved = yield from resolve_pair(target, draft, options)
    use_threads(options.threads)
    if evict:
        resolved = replace(resolved, plan=(yield from evict(resolved.plan)))
    resolved = yield from _drop_large_draft(resolved, options)
    comparison = _in_thread(lambda: _compare(resolved, options, check_prompt))
    return (yield from _load_pair(resolved, options, comparison))


def _drop_large_draft(resolved: ResolvedPair, options: EngineOptions) -> Reporting[ResolvedPair]:
    """Replace the draft by lookup where only the target fits the memory. Raises OutOfMemory."""
    if (why := check_memory(resolved.plan, options)) is None:
        return resolved
    smaller = yield from smaller_draft(resolved.plan, replace(options, offline=True))
    yield Notice(f"{why}; a draft that fits: -d {smaller}" if smaller else why)
    return replace(resolved, drafter=LOOKUP, draft=None)


def _load_pair(
    resolved: ResolvedPair, options: EngineOptions, comparison: Future[tuple[Tokenizer, SharedVocabulary]]
) -> Generator[Event, None, Pair]:
    """Download and load both models while `comparison` is computed."""
    target, draft, device = resolved.target, resolved.draft, resolved.device
    models = [target] if draft is None else [target, draft]
    # Under transformers only loading shows whether the target can verify. If not, the draft is not needed.
    verifies = not isinstance(read_early_architecture(target), str)
    if not all(each.is_complete for each in models):
        comparison.result()
        yield from fetch_all(models if verifies else [target], offline=options.offline)
    hashes = _in_thread(lambda: _hash_files(models, comparison))
    loaded_draft: tuple[Runner, Placement] | None = None
    try:
        if (
            draft and resolved.plan.target.placement.spread and not is_head(draft)
        ):  # accelerate fills the memory that is left then
            loaded_draft = yield from _stop_on_error(comparison, _fetch_and_load(draft, device, options, is_draft=True))
        model, placement = yield from _stop_on_error(comparison, _fetch_and_load(target, device, options))
    except SpecgenError:
        comparison.result()  # a fault of the prompt or the pair is reported before one of the weights
        raise
    tokenizer, shared = comparison.result()
    if warning := tokenizer_warning(target):
        yield Notice(warning)
    yield from _wait(hashes, Progress(f"hashing {target.ref.name}"))
    pair = Pair(
        target=model,
        checkpoint=target,
        tokenizer=tokenizer,
        drafter=NoDrafter(),
        drafter_name=NONE,
        draft_checkpoint=None,
        placement=placement,
        context_length=min(options.ctx_size or UNLIMITED, model.context_length or UNLIMITED),
        options=options,
    )
    if resolved.drafter != NONE and not model.can_verify:
        yield _cannot_verify(target)
        return pair
    if draft is None:
        _share_threads(options, placement)
        return pair.without_model(resolved.drafter)
    if is_head(draft):
        return (yield from _with_head(pair, draft, options))
    loaded_draft = loaded_draft or (yield from _fetch_and_load(draft, device, options, is_draft=True))
    _share_threads(options, placement, loaded_draft[1])
    if shared.translated:
        yield _translated(draft, shared.translated)
    return pair.with_model(draft, *loaded_draft, shared)


def _with_head(pair: Pair, checkpoint: Checkpoint, options: EngineOptions) -> Generator[Event, None, Pair]:
    """Load a head for the loaded target. It computes in the target's own number format."""
    yield from fetch_weights(checkpoint, offline=options.offline)
    yield Progress(f"loading {checkpoint.ref.name}")
    shared = pair.target.shared
    placement = Placement(shared.device, shared.dtype, pair.placement.quant)
    layers = tapped_states(checkpoint, shared)
    head = load_head(checkpoint, shared, pair.target.vocab_size, placement)
    _share_threads(options, placement)
    return pair.with_head(checkpoint, HeadReader(head, pair.target, layers), placement)


def _share_threads(options: EngineOptions, *placements: Placement) -> None:
    """Give the processor to compiled kernels where all models run on them, else to torch."""
    if all(placement.quantized for placement in placements):
        rest_torch()
    else:
        use_threads(options.threads)


def with_draft(pair: Pair, draft: str, options: EngineOptions) -> Generator[Event, None, Pair]:
    """`pair` with another draft, named as for open_pair. The target is not loaded again. Raises SpecgenError."""
    device = choose_device(options.device)
    drafter, checkpoint, comparison = yield from _resolve_draft(draft, pair.checkpoint, options, device)
    if drafter != NONE and not pair.target.can_verify:
        yield _cannot_verify(pair.checkpoint)
        drafter, checkpoint = NONE, None
    # The loaded target keeps its threads and its number format.
    options = replace(options, threads=pair.options.threads, quant=pair.options.quant)
    pair = replace(pair, options=options).without_model(drafter)
    if checkpoint is None:
        return pair
    check_backend(checkpoint)
    _, shared = comparison or compare_tokenizers(pair.checkpoint, checkpoint, options, translate=True)
    yield from check_draft_memory(plan_pair(pair.checkpoint, checkpoint, options, device), options)
    if is_head(checkpoint):
        return (yield from _with_head(pair, checkpoint, options))
    model, placement = yield from _fetch_and_load(checkpoint, device, options, is_draft=True)
    _share_threads(options, pair.placement, placement)
    if shared.translated:
        yield _translated(checkpoint, shared.translated)
    return pair.with_model(checkpoint, model, placement, shared)


def _translated(draft: Checkpoint, tokens: ByteMap) -> Notice:
    return Notice(
        f"{draft.ref.name} has another vocabulary: it drafts the {tokens.overlap:.0%} of its tokens that the target has"
    )


def _cannot_verify(target: Checkpoint) -> Notice:
    return Notice(f"{target.ref} cannot take back a rejected token, so nothing is drafted")


def _compare(
    resolved: ResolvedPair, options: EngineOptions, check_prompt: PromptCheck | None
) -> tuple[Tokenizer, SharedVocabulary]:
    """Compare the tokenizers, and check the prompt where the context length is known before loading."""
    start_renderer()
    tokenizer, shared = resolved.comparison or compare_tokenizers(
        resolved.target, resolved.draft, options, translate=True
    )
    if check_prompt and resolved.plan.longest:
        check_prompt(tokenizer, resolved.plan.longest)
    return tokenizer, shared


def _hash_files(models: list[Checkpoint], after: Future[Any]) -> None:
    """Hash large files while they are loaded: loaded_model keeps the hashes."""
    wait([after])
    for each in models:
        if each.is_complete:
            loaded_model(each)


def _in_thread(function: Callable[[], T]) -> Future[T]:
    """Call `function` in a daemon thread, which delays neither Ctrl-C nor the exit of the process."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as error:  # belongs to the caller's thread
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    return future


def _wait(future: Future[Any], progress: Progress) -> Reporting[None]:
    """Wait until `future` has ended, well or badly."""
    while not wait([future], _TICK_S).done:
        yield progress


def _stop_on_error(other: Future[Any], events: Generator[Event, None, T]) -> Generator[Event, None, T]:
    """Run `events` to their result, unless `other` fails first; its exception is raised here."""
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


def _find(ref: ModelRef, options: EngineOptions) -> Reporting[Checkpoint]:
    return find(ref, offline=options.offline, trust_remote_code=options.trust_remote_code)


def _fetch_and_load(
    checkpoint: Checkpoint, device: torch.device, options: EngineOptions, *, is_draft: bool = False
) -> Generator[Event, None, tuple[Runner, Placement]]:
    """Download the weights where they are missing, and load them."""
    yield from fetch_weights(checkpoint, offline=options.offline)
    return (yield from _load(checkpoint, device, options, is_draft=is_draft))


def _load(
    checkpoint: Checkpoint, device: torch.device, options: EngineOptions, *, is_draft: bool
) -> Generator[Event, None, tuple[Runner, Placement]]:
    """Load a model with the lean decoder, or with transformers where that cannot."""
    yield Progress(f"loading {checkpoint.ref.name}")
    architecture = read_checkpoint_architecture(checkpoint)
    lean = not isinstance(architecture, str)
    placement = place(device, options, checkpoint.weight_bytes, lean=lean, is_draft=is_draft)
    if placement.spread:
        architecture = "its layers are spread over several GPUs"
    if not isinstance(architecture, str):
        new_capture = choose_capture(device, compile_steps=options.compile)
        try:
            context = min(options.ctx_size or UNLIMITED, architecture.context_length)
            model = yield from load_decoder(
                checkpoint,
                architecture,
                placement,
                context,
                new_capture,
                exact=options.exact,
                is_draft=is_draft,
            )
            return model, placement
        except NotImplementedError as error:  # torch: the device lacks an operation
            architecture = f"the lean decoder does not run on {device.type}: {str(error).partition('.')[0]}"
    if options.verbose or options.compile:
        without = ", without --compile" if options.compile else ""
        yield Notice(f"{checkpoint.ref.name} runs on transformers{without}: {architecture}")
    from specgen.nn.transformers.model import load_model  # noqa: PLC0415 - takes seconds, and few models need it

    return load_model(checkpoint, placement, trust_remote_code=options.trust_remote_code), placement
