"""Opening a pair: find both models, prove that they fit, load them."""

from collections.abc import Generator
from dataclasses import dataclass

import torch

from specgen.core import EngineOptions, ModelRef
from specgen.engine.devices import Placement, choose_device, place
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.drafters.none import NoDrafter
from specgen.engine.interfaces import Drafter, Runner
from specgen.engine.runners.decoder import describe_checkpoint, load_decoder
from specgen.errors import UsageError
from specgen.events import Event, LoadedModel, Notice, Progress
from specgen.models.checkpoint import Checkpoint, fetch_weights, find
from specgen.models.tokenizer import Tokenizer
from specgen.models.vocabulary import shared_range

LOOKUP = "lookup"
NONE = "none"
# The context of a model that names no limit of its own (recurrent ones).
_UNLIMITED = 1 << 20


@dataclass(frozen=True, slots=True)
class Pair:
    """A target and its drafter, loaded. `context_length` is in tokens, prompt and answer together."""

    target: Runner
    checkpoint: Checkpoint
    tokenizer: Tokenizer
    drafter: Drafter
    drafter_name: str
    draft_checkpoint: Checkpoint | None
    placement: Placement
    context_length: int

    @property
    def loaded_target(self) -> LoadedModel:
        return _loaded(self.checkpoint)

    @property
    def loaded_draft(self) -> LoadedModel | None:
        return _loaded(self.draft_checkpoint) if self.draft_checkpoint else None


def _loaded(checkpoint: Checkpoint) -> LoadedModel:
    return LoadedModel(checkpoint.ref.source, checkpoint.commit or checkpoint.ref.revision)


def open_pair(target: ModelRef, draft: str, options: EngineOptions) -> Generator[Event, None, Pair]:
    """Load `target` with `draft` (a model, `lookup` or `none`), yielding what a person should know meanwhile.

    The order saves the user's time: small files first, then the check that the ids agree, then the weights.
    """
    if options.threads is not None:
        torch.set_num_threads(options.threads)
    device = choose_device(options.device)
    checkpoint = yield from find(target, offline=options.offline, trust_remote_code=options.trust_remote_code)
    tokenizer = _tokenizer(checkpoint, options)
    draft_checkpoint = None
    shared = 0
    if draft not in (LOOKUP, NONE):
        draft_checkpoint = yield from find(
            ModelRef.parse(draft), offline=options.offline, trust_remote_code=options.trust_remote_code
        )
        shared = shared_range(tokenizer, _tokenizer(draft_checkpoint, options))
        draft_checkpoint = yield from fetch_weights(draft_checkpoint, offline=options.offline)
    checkpoint = yield from fetch_weights(checkpoint, offline=options.offline)
    placement = place(device, options.dtype, checkpoint.weight_bytes)
    model = yield from _load(checkpoint, placement, options)
    drafter: Drafter = NoDrafter()
    if draft != NONE and not model.can_verify:
        yield Notice(f"{target} cannot take back a rejected token, so nothing is drafted")
        draft, draft_checkpoint = NONE, None
    elif draft == LOOKUP:
        drafter = LookupDrafter()
    elif draft_checkpoint is not None:
        draft_model = yield from _load(draft_checkpoint, place(device, options.dtype, 0), options)
        drafter = ModelDrafter(draft_model, min(shared, model.vocab_size), draft_model.context_length or _UNLIMITED)
        draft = "model"
    return Pair(
        target=model,
        checkpoint=checkpoint,
        tokenizer=tokenizer,
        drafter=drafter,
        drafter_name=draft,
        draft_checkpoint=draft_checkpoint,
        placement=placement,
        context_length=_context_length(model, options.ctx_size),
    )


def _load(checkpoint: Checkpoint, placement: Placement, options: EngineOptions) -> Generator[Event, None, Runner]:
    """Our own decoder where it knows the model, else transformers."""
    yield Progress(f"loading {checkpoint.ref.source}")
    description = describe_checkpoint(checkpoint)
    if placement.device.type != "cpu":
        description = f"the device is {placement.device.type}"
    if not isinstance(description, str):
        return load_decoder(checkpoint, description, placement, description.context_length)
    if options.verbose:
        yield Notice(f"{checkpoint.ref.source} runs on transformers: {description}")
    from specgen.engine.runners.transformers import load_model  # noqa: PLC0415 - seconds that most models need not wait

    return load_model(checkpoint, placement, trust_remote_code=options.trust_remote_code)


def _tokenizer(checkpoint: Checkpoint, options: EngineOptions) -> Tokenizer:
    tokenizer = None if checkpoint.is_gguf else Tokenizer.from_folder(checkpoint.path)
    if tokenizer is not None:
        return tokenizer
    from specgen.engine.runners.transformers import convert_tokenizer  # noqa: PLC0415 - as above

    return convert_tokenizer(checkpoint, trust_remote_code=options.trust_remote_code)


def _context_length(model: Runner, ctx_size: int | None) -> int:
    longest = model.context_length or _UNLIMITED
    if ctx_size is not None and ctx_size > longest:
        raise UsageError(
            f"--ctx-size {ctx_size} is more than the target's {longest}", hint=f"ask for {longest} or less"
        )
    return ctx_size or longest
