"""Opening a pair: find both models, prove that they fit, load them."""

from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import torch

from specgen.core import EngineOptions, ModelRef
from specgen.engine.devices import Placement, choose_device, place
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.drafters.none import NoDrafter
from specgen.engine.interfaces import Drafter, Runner
from specgen.engine.runners.decoder import describe_checkpoint, load_decoder
from specgen.engine.runners.graphs import choose_capture
from specgen.errors import UsageError
from specgen.events import Event, LoadedModel, Notice, Progress
from specgen.models.checkpoint import Checkpoint, Reporting, fetch_weights, find
from specgen.models.summary import context_length
from specgen.models.tokenizer import Tokenizer
from specgen.models.vocabulary import shared_range
from specgen.prompt import is_long, refuse_long

LOOKUP = "lookup"
NONE = "none"
# The context of a model that names no limit of its own (recurrent ones).
UNLIMITED = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its drafter, loaded. `context_length` is in tokens, prompt and answer together.

    `draft` is the model that the drafter drafts with, None for other drafters; `shared_vocab` see ModelDrafter.
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

    @property
    def loaded_target(self) -> LoadedModel:
        return _loaded(self.checkpoint)

    @property
    def loaded_draft(self) -> LoadedModel | None:
        return _loaded(self.draft_checkpoint) if self.draft_checkpoint else None


def _loaded(checkpoint: Checkpoint) -> LoadedModel:
    return LoadedModel(checkpoint.ref.source, checkpoint.commit or checkpoint.ref.revision)


def open_pair(target: ModelRef, draft: str, options: EngineOptions, prompt: str = "") -> Generator[Event, None, Pair]:
    """Load `target` with `draft` (a model, `lookup` or `none`), yielding what a person should know meanwhile.

    Tokenizers are read and compared while weights are loaded, but before any are downloaded: a draft may not fit, and
    a `prompt` may be far too long.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    checkpoint = yield from _find(target, options)
    draft_checkpoint = None
    if draft not in (LOOKUP, NONE):
        draft_checkpoint = yield from _find(ModelRef.parse(draft), options)
    with ThreadPoolExecutor(max_workers=1) as pool:
        comparing = pool.submit(_tokenizers, checkpoint, draft_checkpoint, options)
        if is_long(prompt) and (longest := options.ctx_size or context_length(checkpoint)):
            refuse_long(comparing.result()[0], prompt, longest)
        if not (checkpoint.is_whole and (draft_checkpoint is None or draft_checkpoint.is_whole)):
            comparing.result()
            if draft_checkpoint is not None:
                draft_checkpoint = yield from fetch_weights(draft_checkpoint, offline=options.offline)
        checkpoint = yield from fetch_weights(checkpoint, offline=options.offline)
        model, placement = yield from _load(checkpoint, device, options)
        tokenizer, shared = comparing.result()
    pair = Pair(
        target=model,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        drafter=LookupDrafter() if draft == LOOKUP else NoDrafter(),
        drafter_name=draft,
        draft_checkpoint=draft_checkpoint,
        placement=placement,
        context_length=_context_length(model, options.ctx_size),
    )
    if draft != NONE and not model.can_verify:
        yield Notice(f"{target} cannot take back a rejected token, so nothing is drafted")
        return replace(pair, drafter=NoDrafter(), drafter_name=NONE, draft_checkpoint=None)
    if draft_checkpoint is None:
        return pair
    draft_checkpoint = yield from fetch_weights(draft_checkpoint, offline=options.offline)
    draft_model, draft_placement = yield from _load(draft_checkpoint, device, options)
    shared = min(shared, model.vocab_size)
    by_model = ModelDrafter(draft_model, shared, draft_model.context_length or UNLIMITED)
    return replace(
        pair,
        drafter=HybridDrafter(LookupDrafter(), by_model) if options.lookup else by_model,
        drafter_name="hybrid" if options.lookup else "model",
        draft=draft_model,
        draft_placement=draft_placement,
        shared_vocab=shared,
    )


def _find(ref: ModelRef, options: EngineOptions) -> Reporting[Checkpoint]:
    return find(ref, offline=options.offline, trust_remote_code=options.trust_remote_code)


def _tokenizers(checkpoint: Checkpoint, draft: Checkpoint | None, options: EngineOptions) -> tuple[Tokenizer, int]:
    """The target's tokenizer, and how many leading ids mean the same to the draft. Raises DraftMismatch."""
    tokenizer = _tokenizer(checkpoint, options)
    return tokenizer, shared_range(tokenizer, _tokenizer(draft, options)) if draft else 0


def _load(
    checkpoint: Checkpoint, device: torch.device, options: EngineOptions
) -> Generator[Event, None, tuple[Runner, Placement]]:
    """Our own decoder where it knows the model, else transformers."""
    yield Progress(f"loading {checkpoint.ref.source}")
    description = describe_checkpoint(checkpoint)
    lean = not isinstance(description, str)
    placement = place(device, options, checkpoint.weight_bytes, lean=lean)
    if placement.spread:
        description = "its layers are spread over several GPUs"
    if not isinstance(description, str):
        new_capture = choose_capture(device, compile_steps=options.compile)
        try:
            model = yield from load_decoder(checkpoint, description, placement, description.context_length, new_capture)
            return model, placement
        except NotImplementedError as error:  # how torch says that a device lacks an operation
            description = f"the lean decoder does not run on {device.type}: {str(error).partition('.')[0]}"
    if options.verbose or options.compile:
        without = ", without --compile" if options.compile else ""
        yield Notice(f"{checkpoint.ref.source} runs on transformers{without}: {description}")
    from specgen.engine.runners.transformers import load_model  # noqa: PLC0415 - seconds that most models need not wait

    return load_model(checkpoint, placement, trust_remote_code=options.trust_remote_code), placement


def _tokenizer(checkpoint: Checkpoint, options: EngineOptions) -> Tokenizer:
    if checkpoint.is_gguf:
        from specgen.models.gguf_tokenizer import read_tokenizer  # noqa: PLC0415  0.1 s, only for GGUF

        tokenizer = read_tokenizer(checkpoint.path)
    else:
        tokenizer = Tokenizer.from_folder(checkpoint.path)
    if tokenizer is not None:
        return tokenizer
    from specgen.engine.runners.transformers import convert_tokenizer  # noqa: PLC0415 - as above

    return convert_tokenizer(checkpoint, trust_remote_code=options.trust_remote_code)


def _context_length(model: Runner, ctx_size: int | None) -> int:
    longest = model.context_length or UNLIMITED
    if ctx_size is not None and ctx_size > longest:
        raise UsageError(
            f"--ctx-size {ctx_size} is more than the target's {longest}", hint=f"ask for {longest} or less"
        )
    return ctx_size or longest
