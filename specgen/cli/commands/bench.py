"""specgen bench: what speculation gains here, with these models."""

import json as json_format
import sys
from enum import StrEnum
from typing import Annotated

import typer

from specgen.cli.options import ModelOptions, grouped
from specgen.cli.suggesting import named_model
from specgen.core import Dtype, SamplingParams

_SAMPLING = SamplingParams()


class PeerName(StrEnum):
    TRANSFORMERS = "transformers"


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    models: ModelOptions,
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="'quick', which comes with specgen, or a file of JSON lines.")
    ] = "quick",
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only prompts of this category. Repeatable.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N prompts a category.")] = None,
    drafters: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of none,model,lookup,hybrid; all that the pair has by default.")
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=2, metavar="N", help="Tokens to generate at most.")
    ] = 64,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Times that every prompt is answered.")] = 1,
    temperature: Annotated[
        float, typer.Option("--temp", "--temperature", min=0.0, metavar="T", help="0 is greedy.")
    ] = _SAMPLING.temperature,
    top_k: Annotated[
        int, typer.Option(min=0, metavar="K", help="Draw from the K likeliest; 0: all.")
    ] = _SAMPLING.top_k,
    top_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, metavar="P", help="Draw from the likeliest that hold P together.")
    ] = _SAMPLING.top_p,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Of a sampled run.")] = _SAMPLING.seed,
    peer: Annotated[PeerName | None, typer.Option(help="Measure another program in the same run.")] = None,
    peer_dtype: Annotated[Dtype, typer.Option(help="Number format of the peer; auto: the checkpoint's own.")] = (
        Dtype.BFLOAT16
    ),
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Forward passes over the time that reading the weights takes.")
    ] = False,
    prefill: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Also the time to read a prompt of N tokens.")
    ] = None,
    cold_start: Annotated[
        bool, typer.Option("--cold-start", help="Also the time from a new process to its first text.")
    ] = False,
    fidelity: Annotated[
        bool, typer.Option("--fidelity", help="How far both models are from their weights in float32, loaded beside.")
    ] = False,
    coupling: Annotated[
        bool, typer.Option("--coupling", help="How often both models draw the same token, over what is possible.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="One JSON object instead of a table.")] = False,
) -> None:
    """Measure plain decoding against drafters, prompt by prompt, on this machine.

    Ratios are of speeds in the same run; docs/performance.md explains every figure.

    Examples:

        specgen bench -m stories --category chat --prompts 1 -n 16
        specgen bench -m org/target -d org/draft --peer transformers --roofline --prefill 1000 --cold-start --fidelity
    """
    target = named_model(models)

    from specgen.bench.benchmark import BenchSettings, benchmark
    from specgen.bench.table import render
    from specgen.models.reporting import follow
    from specgen.render.progress import ProgressLine
    from specgen.render.sanitize import sanitize
    from specgen.render.terminal import put_exact

    settings = BenchSettings(
        target=target,
        draft=models.draft,
        engine=models.engine(),
        suite=suite,
        categories=tuple(category or ()),
        prompts=prompts,
        drafters=tuple(name.strip() for name in drafters.split(",")) if drafters is not None else None,
        max_new_tokens=max_tokens,
        repeat=repeat,
        sampling=SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
        peer=peer is not None,
        peer_dtype=peer_dtype,
        roofline=roofline,
        prefill=prefill,
        cold_start=cold_start,
        fidelity=fidelity,
        coupling=coupling,
    )
    line = ProgressLine(sys.stderr)
    try:
        report = follow(benchmark(settings), line.show)
    finally:
        line.close()
    put_exact(sys.stdout, json_format.dumps(report, indent=2) + "\n" if json else sanitize(render(report)))
