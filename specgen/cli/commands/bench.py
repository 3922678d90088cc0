"""specgen bench: measures what speculative decoding gains on this machine."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer

from specgen.bench.settings import BenchSettings, Format, RegressionKind, parse_sweep
from specgen.cli.default_model import named_model
from specgen.cli.option_values import typed
from specgen.cli.options import ModelOptions, grouped
from specgen.core.errors import INTERRUPTED, BadFile, UsageError
from specgen.core.prices import Prices
from specgen.core.types import Dtype, SamplingParams
from specgen.render.terminal import put, put_exact, sanitize

if TYPE_CHECKING:
    from specgen.bench.regressions import ReportChange

_SAMPLING = SamplingParams()
_SETTINGS = BenchSettings("")
_LLAMA = "llama.cpp="
_WORSE = 1  # exit code


@dataclass(frozen=True, slots=True)
class _Outputs:
    """Where the report goes. With `file`, stdout gets the table."""

    format: Format
    file: Path | None = None
    save: str | None = None
    compare: str | None = None
    fail_on: tuple[RegressionKind, ...] = ()


@grouped
def command(  # noqa: PLR0913, PLR0917 - one parameter an option
    context: typer.Context,
    models: ModelOptions,
    suite: Annotated[
        str, typer.Option(metavar="SUITE", help="'quick', 'full' or a file of JSON lines.")
    ] = _SETTINGS.suite,
    category: Annotated[
        list[str] | None, typer.Option(metavar="NAME", help="Use only prompts of this category. Repeatable.")
    ] = None,
    prompts: Annotated[int | None, typer.Option(min=1, metavar="N", help="Use at most N prompts per category.")] = None,
    drafters: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Drafters: none,model,lookup,hybrid. Default: all of the pair."),
    ] = None,
    sweep: Annotated[
        list[str] | None,
        typer.Option(
            metavar="AXIS=VALUES",
            help="Compare values in one run: k=1..8 (and auto), quant=int8,int4, dtype=..., temp=0,0.8. Repeatable.",
        ),
    ] = None,
    max_tokens: Annotated[
        int, typer.Option("-n", "--max-tokens", min=2, metavar="N", help="Generate at most N tokens.")
    ] = _SETTINGS.max_new_tokens,
    repeat: Annotated[int, typer.Option(min=1, metavar="N", help="Answer every prompt N times.")] = (_SETTINGS.repeat),
    temperature: Annotated[
        float, typer.Option("--temp", "--temperature", min=0.0, metavar="T", help="Sampling temperature; 0 is greedy.")
    ] = _SAMPLING.temperature,
    top_k: Annotated[
        int, typer.Option(min=0, metavar="K", help="Sample from the K likeliest tokens; 0 is all.")
    ] = _SAMPLING.top_k,
    top_p: Annotated[
        float,
        typer.Option(min=0.0, max=1.0, metavar="P", help="Sample from the likeliest tokens of total probability P."),
    ] = _SAMPLING.top_p,
    seed: Annotated[int, typer.Option(min=0, metavar="N", help="Seed of sampling.")] = _SAMPLING.seed,
    peer: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PEER",
            help="Measure another program in the same run: transformers, or llama.cpp=PATH of a llama-server."
            " Repeatable.",
        ),
    ] = None,
    peer_dtype: Annotated[Dtype, typer.Option(help="Number format of transformers; auto follows the checkpoint.")] = (
        _SETTINGS.peer_dtype
    ),
    peer_gguf: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="GGUF file for llama.cpp: the target, then the draft. Default: those of the pair.",
        ),
    ] = None,
    roofline: Annotated[
        bool, typer.Option("--roofline", help="Compare forward passes with the time to read the weights.")
    ] = False,
    prefill: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Also time the reading of a prompt of N tokens.")
    ] = None,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="Price of this machine per hour.")
    ] = None,
    price_per_kwh: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="Price of energy, if a counter is readable.")
    ] = None,
    rerun: Annotated[Path | None, typer.Option(metavar="FILE", help="Repeat the benchmark of the report FILE.")] = None,
    save_baseline: Annotated[
        str | None, typer.Option(metavar="NAME", help="Save the report under a name for --compare.")
    ] = None,
    compare: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="List changes beyond noise since a baseline or report.")
    ] = None,
    fail_on: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="With --compare: exit code 1 if any of speed,acceptance,output got worse."),
    ] = None,
    format: Annotated[  # noqa: A002 - the name of the option
        Format | None, typer.Option("-o", "--format", help="Format of the report.")
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Also write the report to FILE, in the format of its ending."),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Short for --format json.")] = False,
) -> None:
    """Compare plain decoding with drafters, prompt by prompt, on this machine.

    Ratios compare speeds within one run. docs/bench.md explains every figure.

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
            prices=Prices(price_per_hour, price_per_kwh),
        )
    else:
        _refuse_settings(context)
    kinds = _kinds(fail_on, compare)

    from specgen.bench.files import choose_format, read_report, settings_of

    if rerun is not None:
        settings = settings_of(read_report(rerun), rerun)
    form = choose_format(Format.JSON if json else format, output)
    outputs = _Outputs(form, output, save_baseline, compare, kinds)
    raise typer.Exit(_run(settings, outputs))


def _peers(names: list[str]) -> dict[str, Any]:
    """Convert --peer to settings. Raises UsageError."""
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
    """Parse --fail-on. Raises UsageError."""
    if fail_on is None:
        return ()
    if compare is None:
        raise UsageError("--fail-on needs a baseline", hint="add --compare NAME")
    known: dict[str, RegressionKind] = {kind: kind for kind in get_args(RegressionKind)}
    asked = [kind.strip() for kind in fail_on.split(",")]
    if unknown := [kind for kind in asked if kind not in known]:
        raise UsageError(f"--fail-on has no kind '{unknown[0]}'", hint=f"there is: {', '.join(known)}")
    return tuple(known[kind] for kind in asked)


def _refuse_settings(context: typer.Context) -> None:
    """With --rerun the report holds all settings. Raises UsageError for an option that would change one."""
    about_reports = ("rerun", "save_baseline", "compare", "fail_on", "format", "output", "json")
    for name in context.params:
        if name not in about_reports and typed(context, name):
            raise UsageError(f"--rerun and --{name.replace('_', '-')} conflict", hint="the report has the settings")


def _run(settings: BenchSettings, outputs: _Outputs) -> int:
    """Measure, show, save and compare. Return the exit code. Raises SpecgenError, before measuring if possible."""
    from specgen.bench.benchmark import benchmark
    from specgen.bench.files import check_baseline_name, load_baseline, save_baseline
    from specgen.core.progress import follow
    from specgen.render.progress import ProgressLine

    if outputs.save is not None:
        check_baseline_name(outputs.save)
    before = load_baseline(outputs.compare) if outputs.compare is not None else None
    if outputs.file is not None and not outputs.file.expanduser().absolute().parent.is_dir():
        raise BadFile(f"there is no folder {outputs.file.parent}", hint="create it first")
    line = ProgressLine(sys.stderr)
    try:
        report: dict[str, Any] = follow(benchmark(settings), line.show)
    finally:
        line.close()
    interrupted = report["interrupted"] is not None
    # Saved before anything can fail: measuring took minutes.
    if outputs.save is not None and not interrupted:
        save_baseline(outputs.save, report)
    changes = _compare(before, report, outputs) if before is not None else []
    _show(report, outputs)
    if before is not None:
        as_text = outputs.format is Format.TABLE or outputs.file is not None
        put_exact(sys.stdout if as_text else sys.stderr, sanitize(_changes_as_text(changes, str(outputs.compare))))
    if interrupted:
        unsaved = f"; it is not saved as '{outputs.save}'" if outputs.save is not None else ""
        put(sys.stderr, f"specgen: interrupted: the report covers what was measured so far{unsaved}\n")
        return INTERRUPTED
    return _WORSE if any(change.worse and change.kind in outputs.fail_on for change in changes) else 0


def _compare(before: dict[str, Any], report: dict[str, Any], outputs: _Outputs) -> "list[ReportChange]":
    """Add the changes since `before` to `report` and return them. Raises UsageError after showing the report."""
    from specgen.bench.regressions import changes_as_data, compare_reports

    try:
        changes = compare_reports(before, report)
    except UsageError:
        _show(report, outputs)  # measuring took minutes
        raise
    report["comparison"] = {"with": outputs.compare, "changes": changes_as_data(changes)}
    return changes


def _show(report: dict[str, Any], outputs: _Outputs) -> None:
    from specgen.bench.files import render_report

    if outputs.file is None:
        made = render_report(report, outputs.format)
        put_exact(sys.stdout, sanitize(made) if outputs.format is Format.TABLE else made)
        return
    put_exact(sys.stdout, sanitize(render_report(report, Format.TABLE)))
    try:
        outputs.file.expanduser().write_text(render_report(report, outputs.format), encoding="utf-8")
    except OSError as error:
        raise BadFile(f"cannot write {outputs.file}: {error.strerror}", hint="give another --output") from error


def _changes_as_text(changes: "list[ReportChange]", name: str) -> str:
    if not changes:
        return f"\nno change beyond noise since {name}\n"
    lines = [
        f"{'WORSE' if each.worse else 'changed':<7} {each.kind:<10} {each.contender}: {each.text}" for each in changes
    ]
    return f"\nsince {name}:\n" + "".join(f"{line}\n" for line in lines)
