"""Predict the memory of a pair and compare it with the free memory, before loading."""

from dataclasses import dataclass, replace

import torch

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.drafter_format import is_head
from specgen.config.pairs import models_of
from specgen.core.defaults import PLANNED_CONTEXT
from specgen.core.errors import OutOfMemory, SpecgenError, UsageError
from specgen.core.types import Dtype, EngineOptions, ModelPair, Quant
from specgen.core.words import format_bytes
from specgen.nn.device import Placement, place
from specgen.nn.kernels import support
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.load import read_checkpoint_architecture
from specgen.nn.memory import Footprint, context_limit, footprint, free_memory, head_footprint, peak

# Shortest context that is offered as an alternative, in tokens.
_SHORTEST = 512
# Total memory over the memory of the weights, where only the number of parameters is known.
_BESIDE_WEIGHTS = 1.3


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """One model and its placement. `context` is in tokens; `download` is the bytes that are missing on disk."""

    checkpoint: Checkpoint
    placement: Placement
    footprint: Footprint
    context: int
    download: int


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """A pair and its memory, in bytes. `assumed` marks a `context` that the user did not choose (PLANNED_CONTEXT).

    `longest` is the context length of the loaded pair in tokens, None where it is unknown before loading.
    """

    target: ModelPlan
    draft: ModelPlan | None
    context: int
    assumed: bool
    longest: int | None
    free: int

    @property
    def models(self) -> tuple[ModelPlan, ...]:
        return (self.target, self.draft) if self.draft else (self.target,)

    @property
    def total(self) -> int:
        return peak([model.footprint for model in self.models])

    @property
    def fits(self) -> bool:
        """Whether all models fit. A target spread over several devices always does: accelerate places its layers."""
        return self.total <= self.free or self.target.placement.spread

    @property
    def draft_fits(self) -> bool:
        """Whether the draft fits beside a loaded target."""
        return self.draft is None or self.draft.placement.spread or peak([self.draft.footprint]) <= self.free

    @property
    def without_draft(self) -> "MemoryPlan":
        return replace(self, draft=None)


def plan_pair(target: Checkpoint, draft: Checkpoint | None, options: EngineOptions, device: torch.device) -> MemoryPlan:
    """Plan `target` and `draft` from their small files. Raises UsageError for a context beyond the target's limit."""
    architecture = read_early_architecture(target)
    limit = context_limit(target, architecture)
    if options.ctx_size is not None and limit and options.ctx_size > limit:
        raise UsageError(
            f"--ctx-size {options.ctx_size} is more than the target's {limit}", hint=f"ask for {limit} or less"
        )
    context = options.ctx_size or min(PLANNED_CONTEXT, limit or PLANNED_CONTEXT)
    return MemoryPlan(
        target=_plan(target, architecture, options, device, context),
        draft=_plan_draft(draft, options, device, context) if draft else None,
        context=context,
        assumed=options.ctx_size is None,
        longest=options.ctx_size or limit,
        free=free_memory(device),
    )


def fits_roughly(pair: ModelPair, device: torch.device) -> bool:
    """Whether a curated pair fits the free memory, judged by its number of parameters only."""
    models = models_of(pair)
    by_dtype = 2 if device.type != "cpu" else 4
    weights = sum(
        model.parameters * (1 if device.type == "cpu" and support.find_fault() is None else by_dtype)
        for model in models
    )
    return weights * _BESIDE_WEIGHTS < free_memory(device)


def read_early_architecture(checkpoint: Checkpoint) -> Architecture | str:
    """Like read_checkpoint_architecture, from the config only: weights may be missing or broken."""
    return read_checkpoint_architecture(checkpoint) if checkpoint.is_gguf else read_architecture(checkpoint.config)


def _plan_draft(draft: Checkpoint, options: EngineOptions, device: torch.device, context: int) -> ModelPlan:
    if is_head(draft):
        placement = place(device, options, draft.weight_bytes, lean=True)
        return ModelPlan(draft, placement, head_footprint(draft, placement, context), context, _missing(draft))
    return _plan(draft, read_early_architecture(draft), options, device, context, is_draft=True)


def _plan(
    checkpoint: Checkpoint,
    architecture: Architecture | str,
    options: EngineOptions,
    device: torch.device,
    context: int,
    *,
    is_draft: bool = False,
) -> ModelPlan:
    size = checkpoint.weight_bytes
    placement = place(device, options, size, lean=not isinstance(architecture, str), is_draft=is_draft)
    context = min(context, context_limit(checkpoint, architecture) or context)
    used = footprint(checkpoint, architecture, placement, context)
    return ModelPlan(checkpoint, placement, used, context, _missing(checkpoint))


def _missing(checkpoint: Checkpoint) -> int:
    """The bytes of the weights that must be downloaded."""
    here = sum(path.stat().st_size for path in checkpoint.weight_files if path.is_file())
    return max(0, checkpoint.weight_bytes - here)


def check_memory(plan: MemoryPlan, options: EngineOptions) -> str | None:
    """None where the pair fits, else a sentence for the user if the target alone does.

    Raises OutOfMemory, naming options that fit, where the target does not fit.
    """
    if plan.fits:
        return None
    alone = plan.without_draft
    if alone.fits and plan.draft:
        return (
            f"{plan.draft.checkpoint.ref.name} does not fit beside {plan.target.checkpoint.ref.name} "
            f"({format_bytes(plan.total)} of memory, {format_bytes(plan.free)} free): lookup drafts instead"
        )
    fitting = what_fits(alone, options)
    raise OutOfMemory(
        f"{plan.target.checkpoint.ref.name} takes {format_bytes(alone.total)} of memory "
        f"with a context of {plan.context}, and {format_bytes(plan.free)} are free",
        hint="this fits: " + "; or ".join(fitting)
        if fitting
        else "choose a smaller one: `specgen pairs` says which fit",
    )


def what_fits(plan: MemoryPlan, options: EngineOptions) -> list[str]:
    """Command-line options that make `plan` fit: a smaller number format, a shorter context, or both."""

    def fits(changed: EngineOptions) -> bool:
        draft = plan.draft.checkpoint if plan.draft else None
        try:
            tried = plan_pair(plan.target.checkpoint, draft, changed, plan.target.placement.device)
        except SpecgenError:  # this device has no int8
            return False
        return replace(tried, free=plan.free).fits

    smaller = _smaller(plan.target.placement, options)
    found = [words for words, changed in smaller if fits(changed)]
    context = plan.context // 2
    while context >= _SHORTEST and not fits(replace(options, ctx_size=context)):
        context //= 2
    if context >= _SHORTEST:
        found.append(f"--ctx-size {context}")
    if found:
        return found
    both = (words for words, changed in smaller if fits(replace(changed, ctx_size=min(_SHORTEST, plan.context))))
    return [f"{words} --ctx-size {_SHORTEST}" for words in both][:1]


def _smaller(placement: Placement, options: EngineOptions) -> list[tuple[str, EngineOptions]]:
    """Smaller number formats: command-line options and the engine options they mean."""
    int4 = ("--quant int4", replace(options, quant=Quant.INT4))
    if placement.quantized or placement.dtype != torch.float32:
        return [int4] if placement.quant is Quant.INT8 else []
    int8 = [("--quant int8", replace(options, quant=Quant.INT8, dtype=Dtype.AUTO))]
    bfloat16 = ("--dtype bfloat16", replace(options, quant=Quant.NONE, dtype=Dtype.BFLOAT16))
    return [*(int8 if placement.device.type == "cpu" else []), bfloat16]
