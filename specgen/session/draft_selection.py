"""Choose the draft of a target: a curated one, or a smaller model of its family."""

from dataclasses import dataclass, field, replace
from typing import Literal

import torch

from specgen.checkpoint.checkpoint import Checkpoint, find
from specgen.checkpoint.summary import summarize
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.checkpoint.vocabulary import SharedVocabulary
from specgen.config.pairs import heads_of, is_verified, pair_of_target
from specgen.core.errors import DraftMismatch, OutOfMemory, SpecgenError
from specgen.core.events import Notice
from specgen.core.progress import Reporting
from specgen.core.types import BUNDLED, EngineOptions, ModelRef
from specgen.core.words import format_bytes
from specgen.history.acceptance import Expected, expected_acceptance
from specgen.nn.memory import peak
from specgen.session.memory_plan import MemoryPlan, ModelPlan, plan_pair
from specgen.session.own_heads import own_head
from specgen.session.prompt import compare_tokenizers

Origin = Literal["curated", "beside", "cached", "hub"]

# Longest draft length that `predict` considers, in tokens.
_LONGEST = 8
# Highest acceptance rate in the formula of `predict`, which divides by 1 - rate.
_HIGHEST = 0.999
# Number of models of the hub that are considered, smallest first.
_HUB_CANDIDATES = 4


@dataclass(frozen=True, slots=True)
class Candidate:
    """A possible draft. `speed_up` over plain decoding is predicted for the `expected` acceptance rate.

    `comparison` is the target's tokenizer and what both models share. `rejected` is the
    reason why the model cannot draft, None for a usable one. Fields that were not computed before it are None.
    """

    ref: ModelRef
    origin: Origin
    checkpoint: Checkpoint | None = None
    comparison: tuple[Tokenizer, SharedVocabulary] | None = None
    plan: MemoryPlan | None = None
    speed_up: float | None = None
    draft_length: int | None = None
    expected: Expected = field(default_factory=Expected)
    rejected: str | None = None


@dataclass(frozen=True, slots=True)
class DraftChoice:
    """The chosen draft, None for lookup. `why` is a sentence for the user, or empty.

    `comparison` is as in Candidate, where the choice computed it.
    """

    checkpoint: Checkpoint | None
    why: str
    comparison: tuple[Tokenizer, SharedVocabulary] | None = None


def choose_draft(target: Checkpoint, options: EngineOptions, device: torch.device) -> Reporting[DraftChoice]:
    """The draft for `--draft auto`. Only small files are downloaded.

    A curated draft is not compared here; open_pair compares the tokens of every draft.
    """
    if own := own_head(target):
        head, speed_up = own
        return DraftChoice(head, _explain(target, head, f"a head that was trained here ({speed_up:.1f}x measured)"))
    pair = pair_of_target(target.ref)
    if pair and pair.draft is None:
        return DraftChoice(None, f"lookup drafts for {target.ref.name}: {pair.why}")
    if pair and pair.draft and is_verified(pair):
        try:
            draft = yield from find(pair.draft, offline=options.offline)
            if draft.is_complete or not _is_offline(options):
                bundled = pair.draft.source.startswith(BUNDLED)
                return DraftChoice(draft, "" if bundled else _explain(target, draft, pair.why))
        except SpecgenError:  # not cached, or gone from the hub: look for another draft
            pass
    for origin, search in (("cached", _cached), ("hub", _on_hub)):
        candidates = yield from search(target, options, device)
        if best := next((each for each in candidates if each.rejected is None), None):
            assert best.checkpoint is not None  # noqa: S101
            assert best.comparison is not None  # noqa: S101
            words = f"a smaller model of its family, {'in the cache' if origin == 'cached' else 'on the hub'}"
            words += f" (~{best.speed_up:.1f}x for {best.expected.rate:.0%} accepted, {best.expected.basis})"
            return DraftChoice(best.checkpoint, _explain(target, best.checkpoint, words), best.comparison)
    # For a local file lookup is the expected choice: do not print a notice every time.
    tells = options.verbose or target.commit is not None
    why = f"lookup drafts for {target.ref.name}: no smaller model with its tokens was found"
    return DraftChoice(None, why if tells else "")


def why_hub_is_skipped(target: Checkpoint, options: EngineOptions) -> str | None:
    """Why the hub is not searched for drafts of `target`; None where it is."""
    if target.commit is None:
        return "a local model has no family there"
    return "specgen is offline" if _is_offline(options) else None


def _is_offline(options: EngineOptions) -> bool:
    from specgen.hub.client import constants  # noqa: PLC0415 - as above

    return options.offline or bool(constants.is_offline_mode())


def _explain(target: Checkpoint, draft: Checkpoint, why: str) -> str:
    """The sentence that names the draft, the reason, and the size and licence of a download."""
    sentence = f"{draft.ref.name} drafts for {target.ref.name}: {why.rstrip('.')}"
    if draft.is_complete:
        return sentence
    licence = summarize(draft).licence or "no licence named"
    return f"{sentence}; it will be downloaded ({format_bytes(draft.weight_bytes)}, {licence})"


def rank_drafts(target: Checkpoint, options: EngineOptions, device: torch.device) -> Reporting[list[Candidate]]:
    """Every candidate, sorted by predicted speed-up; rejected ones come last.

    Candidates beside a local target are listed here, but choose_draft does not load a folder that nobody named.
    """
    found: list[Candidate] = []
    pair = pair_of_target(target.ref)
    if pair and pair.draft:
        unverified = None if is_verified(pair) else "its licence and sizes are not verified: name it with --draft"
        found.append((yield from _find_and_assess(target, pair.draft, "curated", unverified, options, device)))
    for head in heads_of(target.ref):
        found.append((yield from _find_and_assess(target, head, "curated", None, options, device)))
    for search in (_beside, _cached, _on_hub):
        for candidate in (yield from search(target, options, device)):
            if candidate.ref.source not in [each.ref.source for each in found if each.rejected is None]:
                found.append(candidate)
    return _sorted(found)


def smaller_draft(
    plan: MemoryPlan, options: EngineOptions, *, target_is_loaded: bool = False
) -> Reporting[ModelRef | None]:
    """A draft that fits the memory where the draft of `plan` does not; None if there is none."""
    assert plan.draft is not None  # noqa: S101
    for each in (yield from rank_drafts(plan.target.checkpoint, options, plan.target.placement.device)):
        fits = each.plan is not None and (each.plan.draft_fits if target_is_loaded else each.plan.fits)
        if fits and each.comparison and each.ref.name != plan.draft.checkpoint.ref.name:
            return each.ref
    return None


def check_draft_memory(plan: MemoryPlan, options: EngineOptions) -> Reporting[None]:
    """Raise OutOfMemory where the draft does not fit beside a loaded target."""
    if plan.draft is None or plan.draft_fits:
        return
    smaller = yield from smaller_draft(plan, options, target_is_loaded=True)
    needed = format_bytes(peak([plan.draft.footprint]))
    raise OutOfMemory(
        f"{plan.draft.checkpoint.ref.name} takes {needed} of memory, and {format_bytes(plan.free)} are free",
        hint=f"a draft that fits: {smaller}; or lookup" if smaller else "choose a smaller draft, or lookup",
    )


def predict(target: ModelPlan, draft: ModelPlan, acceptance: float) -> tuple[float, int]:
    """The best speed-up over plain decoding and its draft length in tokens, at this acceptance rate.

    A round of k drafted tokens gives (1 - a^(k+1)) / (1 - a) tokens and takes 1 + k * c target passes (Leviathan et al.
    2023). c is the cost of a draft pass: the ratio of the weights in bytes on a CPU, which is bound by memory; the
    ratio of the layers elsewhere, where small models are bound by kernel launches.
    """
    acceptance = min(acceptance, _HIGHEST)
    by_layers = target.placement.device.type != "cpu" and target.footprint.layers and draft.footprint.layers
    if by_layers:
        share = draft.footprint.layers / target.footprint.layers
    else:
        share = draft.footprint.weights / max(1, target.footprint.weights)
    return max(((1 - acceptance ** (k + 1)) / (1 - acceptance) / (1 + k * share), k) for k in range(1, _LONGEST + 1))


def _cached(target: Checkpoint, options: EngineOptions, device: torch.device) -> Reporting[list[Candidate]]:
    from specgen.checkpoint.siblings import cached_siblings  # noqa: PLC0415 - takes 0.3 s, and curated pairs do not need it

    yield from ()
    return _sorted([_assess(target, each, "cached", options, device) for each in cached_siblings(target)])


def _beside(target: Checkpoint, options: EngineOptions, device: torch.device) -> Reporting[list[Candidate]]:
    from specgen.checkpoint.siblings import local_siblings  # noqa: PLC0415 - as above

    yield from ()
    is_local = target.commit is None and not target.ref.source.startswith(BUNDLED)
    found = local_siblings(target) if is_local else ()
    return _sorted([_assess(target, each, "beside", options, device) for each in found])


def _on_hub(target: Checkpoint, options: EngineOptions, device: torch.device) -> Reporting[list[Candidate]]:
    """Candidates of the hub; none where it does not answer."""
    if why_hub_is_skipped(target, options):
        return []
    from specgen.checkpoint.siblings import hub_siblings  # noqa: PLC0415 - as above

    try:
        siblings = hub_siblings(target.ref, _HUB_CANDIDATES)
    except SpecgenError as error:
        yield Notice(f"the hub was not searched for drafts: {error.message}")
        return []
    found: list[Candidate] = []
    for ref in siblings:
        found.append((yield from _find_and_assess(target, ref, "hub", None, options, device)))
    return _sorted(found)


def _find_and_assess(
    target: Checkpoint,
    ref: ModelRef,
    origin: Origin,
    rejected: str | None,
    options: EngineOptions,
    device: torch.device,
) -> Reporting[Candidate]:
    if rejected:
        return Candidate(ref, origin, rejected=rejected)
    try:
        checkpoint = yield from find(ref, offline=options.offline)
    except SpecgenError as error:
        return Candidate(ref, origin, rejected=error.message)
    return _assess(target, checkpoint, origin, options, device)


def _assess(
    target: Checkpoint, draft: Checkpoint, origin: Origin, options: EngineOptions, device: torch.device
) -> Candidate:
    """Judge memory and speed from configs; compare tokenizers, which are slow to read, only if that passes."""
    try:
        plan = plan_pair(target, draft, options, device)
        assert plan.draft is not None  # noqa: S101
        expected = expected_acceptance(target.ref, draft.ref)
        speed_up, length = predict(plan.target, plan.draft, expected.rate)
        found = Candidate(
            draft.ref, origin, draft, plan=plan, speed_up=speed_up, draft_length=length, expected=expected
        )

        def rejected(why: str) -> Candidate:
            return replace(found, rejected=why)

        if speed_up <= 1:
            return rejected("it is too large to gain speed")
        found = replace(found, comparison=compare_tokenizers(target, draft, options))
        if not plan.fits:
            return rejected(f"both take {format_bytes(plan.total)} of memory, and {format_bytes(plan.free)} are free")
    except DraftMismatch as error:
        return rejected(error.message + _overlap(target, draft, options))
    except SpecgenError as error:
        return Candidate(draft.ref, origin, draft, rejected=error.message)
    return found


def _overlap(target: Checkpoint, draft: Checkpoint, options: EngineOptions) -> str:
    """What a draft of another vocabulary can do if the user names it; "" for nothing."""
    try:
        _, shared = compare_tokenizers(target, draft, options, translate=True)
    except SpecgenError:
        return ""
    share = shared.translated.overlap if shared.translated else 1.0
    return f"; if named by -d, it drafts the {share:.0%} of its tokens that the target has"


def _sorted(candidates: list[Candidate]) -> list[Candidate]:
    return sorted(candidates, key=lambda each: (each.rejected is not None, -(each.speed_up or 0.0)))
