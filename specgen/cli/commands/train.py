"""specgen train: trains a draft head for a target on its own answers."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, ClassVar

import typer

from specgen.cli.completion import models as model_names
from specgen.cli.options import grouped
from specgen.cli.ui import print_json
from specgen.core.types import AUTO, LOOKUP, NONE, Device, EngineOptions

if TYPE_CHECKING:
    from specgen.train.train import TrainingResult, TrainSettings


@dataclass(frozen=True, slots=True)
class PromptOptions:
    heading: ClassVar = "Prompts"
    source: Annotated[
        list[str],
        typer.Option(
            "--from",
            metavar="history|FILE",
            help="Prompts: those of the history, or a file with a JSON object a line. Repeatable; default: history.",
        ),
    ] = field(default_factory=list)
    template: Annotated[
        str | None, typer.Option("-t", "--template", metavar="NAME", help="Of the history, only this template.")
    ] = None
    search: Annotated[
        list[str], typer.Option(metavar="TEXT", help="Of the history, only answers with TEXT. Repeatable.")
    ] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainingOptions:
    heading: ClassVar = "Training"
    minutes: Annotated[
        float, typer.Option(min=0.1, max=100_000, metavar="N", help="Time for answers and training together.")
    ] = 60.0
    draft: Annotated[
        str | None, typer.Option("-d", "--draft", metavar="DRAFT", help="One more draft to compare the head with.")
    ] = None
    out: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Folder of the head; default: one that -d auto finds.")
    ] = None
    device: Annotated[Device, typer.Option(help="Where to run.")] = Device.AUTO
    threads: Annotated[int | None, typer.Option(min=1, max=1024, metavar="N", help="CPU threads.")] = None
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is cached; make no connection.")] = False


@grouped
def command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            autocompletion=model_names,
            help="A curated pair, org/name[@revision], a folder, a .gguf file.",
        ),
    ],
    prompts: PromptOptions,
    training: TrainingOptions,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")] = False,
) -> None:
    """Train a draft head for TARGET on its own answers to your prompts, and measure what it brings.

    The head is an EAGLE-3 head in the layout of speculators. Ctrl-C keeps the best head so far; another run goes on
    where the last one ended. -d auto uses the head where it is faster. docs/training.md says what it costs and brings.

    Examples:

        specgen train qwen2.5-coder --minutes 180
        specgen train ./model.gguf --from history --from prompts.jsonl
    """
    from specgen.config.pairs import resolve, resolve_draft
    from specgen.core.errors import UsageError
    from specgen.train.train import TrainSettings

    if training.draft in (AUTO, LOOKUP, NONE):
        raise UsageError(f"-d {training.draft} names no draft to compare with", hint="name a model or a head")
    settings = TrainSettings(
        target=str(resolve(target)),
        sources=tuple(prompts.source) or ("history",),
        minutes=training.minutes,
        template=prompts.template,
        search=tuple(prompts.search),
        draft=resolve_draft(training.draft) if training.draft else None,
        out=training.out,
        engine=EngineOptions(device=training.device, threads=training.threads, offline=training.offline),
    )
    _print(_run(settings), json=json)


def _run(settings: "TrainSettings") -> "TrainingResult":
    """Train, with progress on stderr. Raises SpecgenError."""
    from specgen.core.events import Notice
    from specgen.render.progress import ProgressLine
    from specgen.render.terminal import put
    from specgen.train.train import TrainingResult, train
    from specgen.train.trainer import TrainingStep

    line = ProgressLine(sys.stderr)
    result: TrainingResult | None = None
    try:
        for event in train(settings):
            if isinstance(event, TrainingResult):
                result = event
            elif isinstance(event, TrainingStep):
                line.close()
                shares = " ".join(f"{share:.2f}" for share in event.acceptance.shares)
                put(
                    sys.stderr,
                    f"step {event.step}, {event.tokens:,} tokens, {event.seconds / 60:.1f} min: loss {event.loss:.2f},"
                    f" accepted {shares}{', the best so far' if event.is_best else ''}\n",
                )
            else:
                line.show(event)
                if not isinstance(event, Notice):
                    continue
    finally:
        line.close()
    assert result is not None, "the last event is the result"  # noqa: S101
    return result


def _print(result: "TrainingResult", *, json: bool) -> None:
    import dataclasses

    from specgen.render.terminal import sanitize

    if json:
        print_json(dataclasses.asdict(result))
        return
    first, two, three = result.acceptance.shares
    typer.echo(f"accepted   first {first:.2f}, first two {two:.2f}, first three {three:.2f}")
    typer.echo(f"length     {result.acceptance.length:.2f} tokens a round with 3 drafted, on held-out answers")
    if result.speeds:
        typer.echo(f"{'draft':<30} {'speed-up':>9} {'least':>6} {'tokens a round':>15}")
    for each in result.speeds:
        name = "this head" if each.draft == str(result.folder) else each.draft
        typer.echo(sanitize(f"{name:<30} {each.median:>8.2f}x {each.least:>5.2f}x {each.tokens_per_round:>15.2f}"))
    typer.echo(sanitize(f"head       {result.folder}"))
    if result.record.faster is False:
        typer.echo(
            "verdict    not faster than lookup or no draft here, so -d auto does not use it; see docs/training.md"
        )
    elif result.record.faster:
        typer.echo("verdict    faster: -d auto uses it from now on")
