"""A benchmark from its settings to its report."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any

from specgen.bench import report
from specgen.bench.contenders import HYBRID, LOOKUP, MODEL, PLAIN, Contender, Ours, available, read_time
from specgen.bench.coupling import measure_coupling
from specgen.bench.fidelity import compare_with_float32
from specgen.bench.machine import describe_machine, peak_memory
from specgen.bench.measure import medians
from specgen.bench.peers import TRANSFORMERS, Peer, load_peers
from specgen.bench.roofline import bandwidth, forward_times, weight_bytes
from specgen.bench.runner import interleave, warm_up
from specgen.bench.startup import cold_starts
from specgen.bench.suites import QUICK, SuitePrompt, choose, read_suite
from specgen.bench.texts import KINDS
from specgen.core import Dtype, EngineOptions, Message, SamplingChoice, SamplingParams
from specgen.engine.devices import Placement
from specgen.errors import UsageError
from specgen.events import LoadedModel, Notice, Progress
from specgen.loading import Pair
from specgen.models.reporting import Reporting
from specgen.prompt import chat_prompt
from specgen.session import Session, memory_errors

FORMAT = 1
"""Goes up when a key of the report changes its meaning or goes."""

_DRAFTERS = {"none": PLAIN, MODEL: MODEL, LOOKUP: LOOKUP, HYBRID: HYBRID}
_PREFILLS = 3


@dataclass(frozen=True, slots=True)
class BenchSettings:
    """What to measure. `drafters` None is all that the pair has; plain decoding always takes part."""

    target: str
    draft: str = "auto"
    engine: EngineOptions = dataclasses.field(default_factory=EngineOptions)
    suite: str = QUICK
    categories: tuple[str, ...] = ()
    prompts: int | None = None
    drafters: tuple[str, ...] | None = None
    max_new_tokens: int = 64
    repeat: int = 1
    sampling: SamplingParams = dataclasses.field(default_factory=SamplingParams)
    peer: bool = False
    peer_dtype: Dtype = Dtype.BFLOAT16
    roofline: bool = False
    prefill: int | None = None
    cold_start: bool = False
    fidelity: bool = False
    coupling: bool = False


def benchmark(settings: BenchSettings) -> Reporting[report.Figures]:
    """Measure; the result is the report, which is JSON as it is. Raises SpecgenError."""
    prompts = choose(read_suite(settings.suite), settings.categories, settings.prompts)
    _check(settings)
    session = Session(settings.target, settings.draft, settings.engine)
    for event in session.open():
        if isinstance(event, Progress | Notice):
            yield event
    pair = session.pair
    ids = yield from _fit(pair, prompts, settings.max_new_tokens)
    if settings.prefill is not None and settings.prefill > pair.context_length:
        raise UsageError(
            f"--prefill {settings.prefill} is more than the context of {pair.context_length}", hint="ask for less"
        )
    contenders: list[Contender] = [*_ours(pair, settings)]
    yield from warm_up(contenders, ids)
    result = _header(settings, pair) | {"peak_memory_bytes": peak_memory()}
    if settings.cold_start:
        yield Progress("starting cold")
        result["cold_start_s"] = cold_starts(settings.target, settings.draft, settings.engine)
    peers = yield from _peers(settings, pair)
    yield from warm_up(peers, ids)
    if settings.prefill is not None:
        yield Progress(f"reading {settings.prefill} tokens")
        result["prefill"] = _prefill(pair, peers, [token for each in ids.values() for token in each], settings.prefill)
    contenders += peers
    with memory_errors():
        runs = yield from interleave(contenders, ids, settings.repeat, settings.max_new_tokens)
    result["overall"] = report.compare(contenders, runs)
    result["categories"] = report.categories(contenders, runs)
    result["identical"] = report.identical(result["overall"])
    if settings.roofline:
        yield Progress("measuring forward passes")
        result["roofline"] = _roofline(pair)
    if settings.coupling:
        result["coupling"] = yield from _coupling(pair)
    if settings.fidelity:
        result["fidelity"] = yield from _fidelity(pair, settings.engine)
    return result | {"runs": report.run_records(runs)}


def _check(settings: BenchSettings) -> None:
    """What can be refused before anything is loaded."""
    for name in settings.drafters or ():
        if name not in _DRAFTERS:
            raise UsageError(f"there is no drafter '{name}'", hint=f"there is: {', '.join(_DRAFTERS)}")
    if settings.peer and not settings.sampling.greedy:
        raise UsageError("the peer is measured greedily", hint="leave out --temp, or --peer")


def _ours(pair: Pair, settings: BenchSettings) -> list[Ours]:
    asked = available(pair) if settings.drafters is None else [_DRAFTERS[name] for name in settings.drafters]
    sampling = SamplingChoice(**dataclasses.asdict(settings.sampling))  # nothing is left to what a model recommends
    return [Ours(name, pair, settings.engine, sampling) for name in dict.fromkeys([PLAIN, *asked])]


def _peers(settings: BenchSettings, pair: Pair) -> Reporting[list[Peer]]:
    if not settings.peer:
        return []
    yield Progress(f"loading {TRANSFORMERS} as a peer")
    with memory_errors():
        peers = load_peers(pair.checkpoint, pair.draft_checkpoint, settings.peer_dtype, pair.placement.device)
    if pair.draft_checkpoint and not any(MODEL in peer.measures for peer in peers):
        yield Notice("transformers drafts only with a model whose logits are as wide as the target's: not measured")
    return peers


def _fit(pair: Pair, prompts: Sequence[SuitePrompt], new: int) -> Reporting[Mapping[SuitePrompt, Sequence[int]]]:
    """The ids of every prompt; of one that is too long its end, so that every contender reads the same."""
    room = pair.context_length - new
    if room < 1:
        raise UsageError(f"-n {new} leaves no room in a context of {pair.context_length}", hint="ask for fewer tokens")
    whole = {prompt: chat_prompt(pair.tokenizer, [Message("user", prompt.text)]).ids for prompt in prompts}
    if too_long := sum(len(ids) > room for ids in whole.values()):
        yield Notice(f"{too_long} of {len(whole)} prompts are too long: the last {room} tokens of each are read")
    return {prompt: ids[-room:] for prompt, ids in whole.items()}


def _prefill(pair: Pair, peers: Sequence[Peer], text: Sequence[int], tokens: int) -> report.Figures:
    """Median seconds to read the same `tokens` tokens, ours and the peer's in turn."""
    prompt = list(islice(cycle(text), tokens))
    calls = {"specgen": lambda: read_time(pair.target, prompt)}
    if peers:
        calls[TRANSFORMERS] = lambda: peers[0].read_time(prompt)
    seconds = medians(calls, _PREFILLS)
    over_peer = seconds[TRANSFORMERS] / seconds["specgen"] if peers else None
    return {"tokens": tokens, "over_peer": over_peer, "seconds": seconds}


def _roofline(pair: Pair) -> report.Figures:
    models = {"target": (pair.target, weight_bytes(pair.checkpoint, pair.placement))}
    if pair.draft and pair.draft_checkpoint and pair.draft_placement:
        models["draft"] = (pair.draft, weight_bytes(pair.draft_checkpoint, pair.draft_placement))
    read = bandwidth(pair.placement.device)
    return report.roofline(read, forward_times(models))


def _coupling(pair: Pair) -> Reporting[report.Figures]:
    if pair.draft is None:
        raise UsageError("--coupling is about a draft model", hint="name one with --draft")
    figures = {}
    for kind in KINDS:
        coupling = yield from measure_coupling(pair, pair.draft, kind)
        figures[kind] = dataclasses.asdict(coupling) | {"over_bound": coupling.accepted / coupling.bound}
    return figures


def _fidelity(pair: Pair, options: EngineOptions) -> Reporting[report.Figures]:
    """How far each model is from its own weights in float32, which are loaded beside it."""
    models = {"target": (pair.checkpoint, pair.target)}
    if pair.draft and pair.draft_checkpoint:
        models["draft"] = (pair.draft_checkpoint, pair.draft)
    figures = {}
    with memory_errors():
        for name, (checkpoint, model) in models.items():
            fidelity = yield from compare_with_float32(checkpoint, model, options)
            figures[name] = dataclasses.asdict(fidelity)
    return figures


def _header(settings: BenchSettings, pair: Pair) -> dict[str, Any]:
    """Everything that somebody needs to run it again."""
    return {
        "format": FORMAT,
        "machine": describe_machine(pair.placement.device),
        "target": _model(pair.loaded_target, pair.placement),
        "draft": _model(pair.loaded_draft, pair.draft_placement),
        "settings": dataclasses.asdict(settings),
    }


def _model(model: LoadedModel | None, placement: Placement | None) -> dict[str, str | None] | None:
    if model is None or placement is None:
        return None
    return {
        "id": model.id,
        "revision": model.revision,
        "device": placement.device.type,
        "dtype": str(placement.dtype).removeprefix("torch."),
        "quant": "int8" if placement.int8 else "none",
    }
