"""Runs a benchmark: from its settings to its report."""

import contextlib
import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from itertools import cycle, islice
from typing import Any

import torch

from specgen.bench import report
from specgen.bench.contenders import DRAFTERS, MODEL, Contender, number_formats, own_contenders, prefill_time
from specgen.bench.llama_cpp import LLAMA_CPP, llama_peers
from specgen.bench.measure import medians
from specgen.bench.meters import EnergyMeter, PeakMemory, SpeedProbe, energy_counters
from specgen.bench.peers import TRANSFORMERS, TransformersPeer, load_peers
from specgen.bench.roofline import bandwidth, forward_times, weight_bytes
from specgen.bench.runner import Meters, Run, interleave, warm_up
from specgen.bench.settings import BenchSettings
from specgen.bench.suites import SuitePrompt, choose, prompt_ids, read_suite
from specgen.core.errors import UsageError
from specgen.core.events import LoadedModel, Notice, Progress
from specgen.core.machine import describe_machine, peak_memory
from specgen.core.progress import Reporting
from specgen.nn.device import Placement, compute_threads
from specgen.session.pair import Pair
from specgen.session.session import Session, memory_errors

_PREFILLS = 3


def benchmark(settings: BenchSettings) -> Reporting[report.Figures]:
    """Measure and return the report, which is plain JSON data. Raises SpecgenError.

    After Ctrl-C the report covers the prompts that every contender has answered, and says so. Without any such prompt
    KeyboardInterrupt is raised.
    """
    prompts = choose(read_suite(settings.suite), settings.categories, settings.prompts)
    _check(settings)
    pairs = yield from _open(settings)
    pair = next(iter(pairs.values()))
    ids = yield from _encode(pair, prompts, settings.max_new_tokens)
    if settings.prefill is not None and settings.prefill > pair.context_length:
        raise UsageError(
            f"--prefill {settings.prefill} is more than the context of {pair.context_length}", hint="ask for less"
        )
    contenders: list[Contender] = [*own_contenders(settings, pairs)]
    yield from warm_up(contenders, ids)
    result = _header(settings, pairs, prompts) | {"peak_memory_bytes": peak_memory(), "interrupted": None}
    runs: list[Run] = []
    try:
        yield from _measure(settings, pair, ids, contenders, runs, result)
        if settings.roofline:
            yield Progress("measuring forward passes")
            result["roofline"] = _roofline(pair)
    except KeyboardInterrupt:
        if not (turns := len(runs) // len(contenders)):
            raise
        del runs[turns * len(contenders) :]  # the unfinished turn
        result["interrupted"] = {"turns": turns, "of": len(ids) * settings.repeat}
    return result | _figures(settings, contenders, runs) | {"runs": report.run_records(runs)}


def _encode(pair: Pair, prompts: Sequence[SuitePrompt], new: int) -> Reporting[Mapping[SuitePrompt, Sequence[int]]]:
    """Encode the prompts. A prompt that is too long keeps its end, the same for every contender."""
    encoded = {prompt: prompt_ids(pair, prompt, new) for prompt in prompts}
    if too_long := [room for ids, room in encoded.values() if len(ids) > room]:
        yield Notice(
            f"{len(too_long)} of {len(encoded)} prompts are too long: the last {too_long[0]} tokens of each are read"
        )
    return {prompt: ids[-room:] for prompt, (ids, room) in encoded.items()}


def _measure(
    settings: BenchSettings,
    pair: Pair,
    ids: Mapping[SuitePrompt, Sequence[int]],
    contenders: list[Contender],
    runs: list[Run],
    result: report.Figures,
) -> Reporting[None]:
    """Add the peers to `contenders`, the answers to `runs` and other figures to `result`."""
    with contextlib.ExitStack() as stack:
        peers = yield from _peers(settings, pair, stack)
        yield from warm_up(peers, ids)
        if settings.prefill is not None:
            yield Progress(f"reading {settings.prefill} tokens")
            text = [token for each in ids.values() for token in each]
            result["prefill"] = _prefill(pair, peers, text, settings.prefill)
        contenders += peers
        device = pair.placement.device
        counters = energy_counters(device.type)
        result["energy"] = [type(counter).__name__.lower() for counter in counters]
        memory = None if settings.transformers else PeakMemory(device)
        meters = Meters(memory, EnergyMeter(counters), SpeedProbe(device))
        with memory_errors():
            yield from interleave(contenders, ids, settings.repeat, settings.max_new_tokens, meters, runs)


def _open(settings: BenchSettings) -> Reporting[dict[str, Pair]]:
    """Load the pair in every number format of the sweep. All stay loaded, since contenders alternate."""
    pairs = {}
    for label, options in number_formats(settings).items():
        session = Session(settings.target, settings.draft, options)
        for event in session.open():
            if isinstance(event, Progress | Notice):
                yield event
        pairs[label] = session.pair
    return pairs


def _figures(settings: BenchSettings, contenders: Sequence[Contender], runs: Sequence[Run]) -> report.Figures:
    overall = report.compare(contenders, runs, settings.prices)
    return {
        "overall": overall,
        "categories": report.categories(contenders, runs, settings.prices),
        "distributions": report.distributions(contenders, runs, settings.prices),
        "identical": report.identical(overall),
    }


def _check(settings: BenchSettings) -> None:
    """Raises UsageError for settings that are wrong whatever the models."""
    for name in settings.drafters or ():
        if name not in DRAFTERS:
            raise UsageError(f"there is no drafter '{name}'", hint=f"there is: {', '.join(DRAFTERS)}")
    peer = settings.transformers or settings.llama_cpp
    if peer and (not settings.sampling.greedy or any(settings.sweep.temperatures)):
        raise UsageError("--peer compares greedy decoding only", hint="leave out --temp or --peer")


def _peers(settings: BenchSettings, pair: Pair, stack: contextlib.ExitStack) -> Reporting[list[Contender]]:
    """Load the peers. Servers stop when `stack` closes."""
    peers: list[Contender] = []
    if settings.llama_cpp:
        yield Progress(f"starting {LLAMA_CPP} as a peer")
        models, threads = _gguf_files(settings, pair), compute_threads()
        peers += stack.enter_context(llama_peers(settings.llama_cpp, models, pair.context_length, threads))
    if settings.transformers:
        yield Progress(f"loading {TRANSFORMERS} as a peer")
        with memory_errors():
            loaded = load_peers(pair.checkpoint, pair.draft_checkpoint, settings.peer_dtype, pair.placement.device)
        if pair.draft_checkpoint and not any(MODEL in peer.measures for peer in loaded):
            yield Notice(
                "not measured: transformers assisted, which needs a draft with the vocabulary size of the target"
            )
        peers += loaded
    return peers


def _gguf_files(settings: BenchSettings, pair: Pair) -> list[str]:
    """Files for llama.cpp: the target and the draft, if any. Raises UsageError."""
    if settings.peer_gguf:
        return list(settings.peer_gguf)
    checkpoints = [each for each in (pair.checkpoint, pair.draft_checkpoint) if each]
    if not all(each.is_gguf for each in checkpoints):
        raise UsageError("llama.cpp needs .gguf files", hint="give the same models with --peer-gguf, the target first")
    return [str(each.path) for each in checkpoints]


def _prefill(pair: Pair, peers: Sequence[Contender], text: Sequence[int], tokens: int) -> report.Figures:
    """Median seconds to read the same `tokens` tokens, by specgen and by transformers, in turn."""
    prompt = list(islice(cycle(text), tokens))
    calls = {"specgen": lambda: prefill_time(pair.target, prompt)}
    reader = next((peer for peer in peers if isinstance(peer, TransformersPeer)), None)
    if reader:
        calls[TRANSFORMERS] = lambda: reader.prefill_time(prompt)
    seconds = medians(calls, _PREFILLS)
    over_peer = seconds[TRANSFORMERS] / seconds["specgen"] if reader else None
    return {"tokens": tokens, "over_peer": over_peer, "seconds": seconds}


def _roofline(pair: Pair) -> report.Figures:
    models = {"target": (pair.target, weight_bytes(pair.checkpoint, pair.placement))}
    if pair.draft and pair.draft_checkpoint and pair.draft_placement:
        models["draft"] = (pair.draft, weight_bytes(pair.draft_checkpoint, pair.draft_placement))
    read = bandwidth(pair.placement.device)
    return report.roofline(read, forward_times(models))


def _header(settings: BenchSettings, pairs: Mapping[str, Pair], prompts: Sequence[SuitePrompt]) -> dict[str, Any]:
    """Everything needed to run the benchmark again. `suite` is a digest of the prompts."""
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
        "machine": describe_machine(accelerator=_accelerator(first.placement.device), threads=compute_threads()),
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
        "quant": placement.quant,
    }
