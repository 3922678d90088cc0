"""specgen bench: what speculation gains here, with these models."""

from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from specgen.bench.settings import BenchSettings, Format, RegressionKind, parse_sweep
from specgen.cli.configured import typed
from specgen.cli.default_model import named_model
from specgen.cli.options import ModelOptions, grouped
from specgen.core.errors import UsageError
from specgen.core.prices import Prices
from specgen.core.types import Dtype, SamplingParams

_SAMPLING = SamplingParams()
_SETTINGS = BenchSettings("")
_LLAMA = "llama.cpp="


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    context: typer.Context,
    models: ModelOptions,
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="'quick' or 'full', which come with specgen, or a file of JSON lines.")
    ] = _SETTINGS.suite,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Only prompts of this category. Repeatable.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, metavar="N", help="At most N prompts a category.")] = None,
    drafters: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of none,model,lookup,hybrid; all that the pair has by default.")
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUES",
            help="Compare values in one run: k=1..8 (beside auto), quant=int8,none, dtype=..., temp=0,0.8. Repeatable.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=2, metavar="N", help="Tokens to generate at most.")
    ] = _SETTINGS.max_new_tokens,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Times that every prompt is answered.")] = (
        _SETTINGS.repeat
    ),
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
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="Measure another program in the same run: transformers, or llama.cpp=PATH, your llama-server."
            " Repeatable.",
        ),
    ] = None,
    peer_dtype: Annotated[Dtype, typer.Option(help="Number format of transformers; auto: the checkpoint's own.")] = (
        _SETTINGS.peer_dtype
    ),
    peer_gguf: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE", help="What llama.cpp reads: the target, then the draft; else those of the pair."),
    ] = None,
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
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="What this machine costs an hour.")
    ] = None,
    price_per_kwh: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="What energy costs, where it can be read.")
    ] = None,
    rerun: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Measure again what the report FILE measured.")
    ] = None,
    save_baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Keep the report under a name, to compare with it later.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="List what changed beyond noise since a baseline or report.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="With --compare: exit code 1 if one of speed,acceptance,output got worse."),
    ] = None,
    format: Annotated[  # noqa: A002 - the name of the option
        Format | None, typer.Option("-o", "--format", help="Of the report.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the report there, in the format of its ending; the table is shown."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Measure plain decoding against drafters, prompt by prompt, on this machine.

    Ratios are of speeds in the same run; docs/bench.md explains every figure.

    Examples:

        specgen bench -m stories --category chat --prompts 1 -n 16
        specgen bench -m org/target -d org/draft --suite full --sweep k=1..8 --peer transformers --output report.html
        specgen bench -m org/target -k 4 --compare before --fail-on speed,acceptance,output
    """
    if rerun is None:
        settings = BenchSettings(
            target=named_model(models),
            draft=models.draft,
            engine=models.engine(),
            suite=suite,
            categories=tuple(category or ()),
            prompts=prompts,
            drafters=tuple(name.strip() for name in drafters.split(",")) if drafters is not None else None,
            sweep=parse_sweep(sweep or ()),
            max_new_tokens=max_tokens,
            repeat=repeat,
            sampling=SamplingParams(temperature=temperature, top_k=top_k, top_p=top_p, seed=seed),
            **_peers(peer or []),
            peer_dtype=peer_dtype,
            peer_gguf=tuple(peer_gguf or ()),
            roofline=roofline,
            prefill=prefill,
            cold_start=cold_start,
            fidelity=fidelity,
            coupling=coupling,
            prices=Prices(price_per_hour, price_per_kwh),
        )
    else:
        _refuse_settings(context)
    kinds = _kinds(fail_on, compare)

    from specgen.bench.files import choose_format, read_report, settings_of
    from specgen.cli.benching import Outputs, play_bench

    if rerun is not None:
        settings = settings_of(read_report(rerun), rerun)
    form = choose_format(Format.JSON if json else format, output)
    outputs = Outputs(form, output, save_baseline, compare, kinds)
    raise typer.Exit(play_bench(settings, outputs))


def _peers(names: list[str]) -> dict[str, Any]:
    """The settings that --peer stands for. Raises UsageError."""
    made: dict[str, Any] = {}
    for name in names:
        if name == "transformers":
            made["transformers"] = True
        elif name.startswith(_LLAMA) and name != _LLAMA:
            made["llama_cpp"] = name.removeprefix(_LLAMA)
        else:
            raise UsageError(f"there is no peer '{name}'", hint="there is: transformers, llama.cpp=PATH")
    return made


def _kinds(fail_on: str | None, compare: str | None) -> tuple[RegressionKind, ...]:
    """What --fail-on names. Raises UsageError."""
    if fail_on is None:
        return ()
    if compare is None:
        raise UsageError("--fail-on has nothing to compare with", hint="add --compare NAME")
    known: dict[str, RegressionKind] = {kind: kind for kind in get_args(RegressionKind)}
    asked = [kind.strip() for kind in fail_on.split(",")]
    if unknown := [kind for kind in asked if kind not in known]:
        raise UsageError(f"--fail-on knows no '{unknown[0]}'", hint=f"there is: {', '.join(known)}")
    return tuple(known[kind] for kind in asked)


def _refuse_settings(context: typer.Context) -> None:
    """With --rerun what is measured is what the report says. Raises UsageError for an option that says otherwise."""
    about_reports = ("rerun", "save_baseline", "compare", "fail_on", "format", "output", "json")
    for name in context.params:
        if name not in about_reports and typed(context, name):
            raise UsageError(f"--rerun and --{name.replace('_', '-')} at once", hint="the report says what is measured")
