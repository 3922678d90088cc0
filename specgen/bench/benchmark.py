"""A benchmark from its settings to its report."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch

from specgen.bench import report
from specgen.bench.contenders import MODEL, Contender, Ours, read_time
from specgen.bench.coupling import measure_coupling
from specgen.bench.fidelity import compare_with_float32
from specgen.bench.fitting import fit
from specgen.bench.hindsight import hindsight
from specgen.bench.llama import LLAMA_CPP, llama_peers
from specgen.bench.measure import medians
from specgen.bench.meters import Energy, Memory, Pace, energy_counters
from specgen.bench.peers import TRANSFORMERS, Peer, load_peers
from specgen.bench.roofline import bandwidth, forward_times, weight_bytes
from specgen.bench.runner import Meters, Run, interleave, warm_up
from specgen.bench.settings import BenchSettings
from specgen.bench.startup import cold_starts
from specgen.bench.suites import SuitePrompt, choose, read_suite
from specgen.bench.texts import KINDS
from specgen.bench.variants import DRAFTERS, contenders, number_formats
from specgen.core.errors import UsageError
from specgen.core.events import LoadedModel, Notice, Progress
from specgen.core.machine import describe_machine, peak_memory
from specgen.core.progress import Reporting
from specgen.core.types import EngineOptions
from specgen.nn.device import Placement
from specgen.session.pair import Pair
from specgen.session.session import Session, memory_errors

_PREFILLS = 3


def benchmark(settings: BenchSettings) -> Reporting[report.Figures]:
    """Measure; the result is the report, which is JSON as it is. Raises SpecgenError.

    After Ctrl-C it is that of the prompts that all had answered, and says so; where there is none, it is raised.
    """
    prompts = choose(read_suite(settings.suite), settings.categories, settings.prompts)
    _check(settings)
    pairs = yield from _open(settings)
    pair = next(iter(pairs.values()))
    ids = yield from fit(pair, prompts, settings.max_new_tokens)
    if settings.prefill is not None and settings.prefill > pair.context_length:
        raise UsageError(
            f"--prefill {settings.prefill} is more than the context of {pair.context_length}", hint="ask for less"
        )
    ours = contenders(settings, pairs)
    yield from warm_up(ours, ids)
    result = _header(settings, pairs, prompts) | {"peak_memory_bytes": peak_memory(), "interrupted": None}
    if settings.cold_start:
        yield Progress("starting cold")
        result["cold_start_s"] = cold_starts(settings.target, settings.draft, settings.engine)
    everybody: list[Contender] = [*ours]
    runs: list[Run] = []
    try:
        yield from _measure(settings, pair, ids, everybody, runs, result)
        yield from _beside(settings, pair, result)
    except KeyboardInterrupt:
        if not (turns := len(runs) // len(everybody)):
            raise
        del runs[turns * len(everybody) :]  # the others of that turn did not answer
        result["interrupted"] = {"turns": turns, "of": len(ids) * settings.repeat}
    return result | _figures(settings, everybody, ours, runs) | {"runs": report.run_records(runs)}


def _measure(
    settings: BenchSettings,
    pair: Pair,
    ids: Mapping[SuitePrompt, Sequence[int]],
    everybody: list[Contender],
    runs: list[Run],
    result: report.Figures,
) -> Reporting[None]:
    """What takes turns: peers join `everybody`, answers `runs`, other figures `result`."""
    with contextlib.ExitStack() as stack:
        peers = yield from _peers(settings, pair, stack)
        yield from warm_up(peers, ids)
        if settings.prefill is not None:
            yield Progress(f"reading {settings.prefill} tokens")
            text = [token for each in ids.values() for token in each]
            result["prefill"] = _prefill(pair, peers, text, settings.prefill)
        everybody += peers
        counters = energy_counters(pair.placement.device.type)
        result["energy"] = [type(counter).__name__.lower() for counter in counters]
        device = pair.placement.device
        meters = Meters(None if settings.transformers else Memory(device), Energy(counters), Pace(device))
        with memory_errors():
            yield from interleave(everybody, ids, settings.repeat, settings.max_new_tokens, meters, runs)


def _beside(settings: BenchSettings, pair: Pair, result: report.Figures) -> Reporting[None]:
    """What is measured beside answers, into `result`."""
    if settings.roofline:
        yield Progress("measuring forward passes")
        result["roofline"] = _roofline(pair)
    if settings.coupling:
        result["coupling"] = yield from _coupling(pair)
    if settings.fidelity:
        result["fidelity"] = yield from _fidelity(pair, settings.engine)


def _open(settings: BenchSettings) -> Reporting[dict[str, Pair]]:
    """The pair in every number format of the sweep, all at once: they answer in turn."""
    pairs = {}
    for label, options in number_formats(settings).items():
        session = Session(settings.target, settings.draft, options)
        for event in session.open():
            if isinstance(event, Progress | Notice):
                yield event
        pairs[label] = session.pair
    return pairs


def _figures(
    settings: BenchSettings, everybody: Sequence[Contender], ours: Sequence[Ours], runs: Sequence[Run]
) -> report.Figures:
    overall = report.compare(everybody, runs, settings.prices)
    figures = {
        "overall": overall,
        "categories": report.categories(everybody, runs, settings.prices),
        "distributions": report.distributions(everybody, runs, settings.prices),
        "identical": report.identical(overall),
    }
    if settings.sweep.draft_lengths:
        figures["hindsight"] = hindsight(ours, runs)
    return figures


def _check(settings: BenchSettings) -> None:
    """What can be refused before anything is loaded."""
    for name in settings.drafters or ():
        if name not in DRAFTERS:
            raise UsageError(f"there is no drafter '{name}'", hint=f"there is: {', '.join(DRAFTERS)}")
    peer = settings.transformers or settings.llama_cpp
    if peer and (not settings.sampling.greedy or any(settings.sweep.temperatures)):
        raise UsageError("the peer is measured greedily", hint="leave out --temp, or --peer")


def _peers(settings: BenchSettings, pair: Pair, stack: contextlib.ExitStack) -> Reporting[list[Contender]]:
    """Those asked for; what runs beside this process ends with `stack`."""
    peers: list[Contender] = []
    if settings.llama_cpp:
        yield Progress(f"starting {LLAMA_CPP} as a peer")
        models, threads = _gguf_files(settings, pair), torch.get_num_threads()
        peers += stack.enter_context(llama_peers(settings.llama_cpp, models, pair.context_length, threads))
    if settings.transformers:
        yield Progress(f"loading {TRANSFORMERS} as a peer")
        with memory_errors():
            loaded = load_peers(pair.checkpoint, pair.draft_checkpoint, settings.peer_dtype, pair.placement.device)
        if pair.draft_checkpoint and not any(MODEL in peer.measures for peer in loaded):
            yield Notice("transformers drafts only with a model whose logits are as wide as the target's: not measured")
        peers += loaded
    return peers


def _gguf_files(settings: BenchSettings, pair: Pair) -> list[str]:
    """What llama.cpp is to read: target, and draft if there is one. Raises UsageError."""
    if settings.peer_gguf:
        return list(settings.peer_gguf)
    checkpoints = [each for each in (pair.checkpoint, pair.draft_checkpoint) if each]
    if not all(each.is_gguf for each in checkpoints):
        raise UsageError("llama.cpp reads .gguf files", hint="name the same models with --peer-gguf, the target first")
    return [str(each.path) for each in checkpoints]


def _prefill(pair: Pair, peers: Sequence[Contender], text: Sequence[int], tokens: int) -> report.Figures:
    """Median seconds to read the same `tokens` tokens, ours and the peer's in turn."""
    prompt = list(islice(cycle(text), tokens))
    calls = {"specgen": lambda: read_time(pair.target, prompt)}
    reader = next((peer for peer in peers if isinstance(peer, Peer)), None)
    if reader:
        calls[TRANSFORMERS] = lambda: reader.read_time(prompt)
    seconds = medians(calls, _PREFILLS)
    over_peer = seconds[TRANSFORMERS] / seconds["specgen"] if reader else None
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


def _header(settings: BenchSettings, pairs: Mapping[str, Pair], prompts: Sequence[SuitePrompt]) -> dict[str, Any]:
    """Everything that somebody needs to run it again. `suite` is a digest of the prompts."""
    models = {
        label: {
            "target": _model(pair.loaded_target, pair.placement),
            "draft": _model(pair.loaded_draft, pair.draft_placement),
        }
        for label, pair in pairs.items()
    }
    first = next(iter(pairs.values()))
    return {
        "format": report.FORMAT,
        "machine": describe_machine(accelerator=_accelerator(first.placement.device), threads=torch.get_num_threads()),
        **next(iter(models.values())),
        "number_formats": models if len(models) > 1 else {},
        "suite": hashlib.sha256(repr([(each.id, each.text) for each in prompts]).encode()).hexdigest()[:16],
        "settings": dataclasses.asdict(settings),
    }


def _accelerator(device: torch.device) -> str | None:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else None


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
