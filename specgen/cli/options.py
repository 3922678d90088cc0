"""The options that commands share, grouped into dataclasses."""

import dataclasses
import functools
import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, ClassVar

import typer

from specgen.cli import completion
from specgen.cli.option_values import configure
from specgen.cli.template_options import preset
from specgen.config import templates
from specgen.core.defaults import DRAFT
from specgen.core.errors import UsageError
from specgen.core.prices import Prices
from specgen.core.types import Device, Dtype, EngineOptions, Quant, SamplingChoice

_ENGINE = EngineOptions()


def _draft_length(text: str) -> int | None:
    """The draft length in tokens, or None for auto. Raises UsageError."""
    if text == "auto":
        return None
    if not re.fullmatch("[0-9]{1,9}", text):
        raise UsageError(f"-k is '{text}'", hint="give a number of tokens, or auto")
    return int(text)


_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0, "": 60.0}


def seconds(text: str) -> float:
    """The seconds of `30s`, `5m`, `1h` or a number of minutes; 0 for off. Raises UsageError."""
    if text == "off":
        return 0.0
    written = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)([smh]?)", text)
    if written is None:
        raise UsageError(f"--keep-alive is '{text}'", hint="give a time, for example 30s, 5m or 1h, or off")
    return float(written[1]) * _SECONDS[written[2]]


def checked_time(text: str) -> str:
    """`text`, if `seconds` can read it. Raises UsageError."""
    seconds(text)
    return text


_Profile = Annotated[
    str | None,
    typer.Option(
        "--profile",
        metavar="NAME",
        autocompletion=completion.profiles,
        callback=configure,
        is_eager=True,
        help="Prefer the settings of [profiles.NAME]; see specgen config.",
    ),
]


class Color(StrEnum):
    AUTO = "auto"
    ALWAYS = "always"
    NEVER = "never"


NoLog = Annotated[bool, typer.Option("--no-log", help="Do not log this in the history; see specgen log.")]


KeepAlive = Annotated[
    str,
    typer.Option(
        "--keep-alive",
        parser=checked_time,
        metavar="TIME|off",
        help="Time that models stay loaded in the background for the next call: 30s, 5m, 1h, a number of minutes, or"
        " off; see docs/serve.md.",
    ),
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    heading: ClassVar = "Models"
    model: Annotated[
        str | None,
        typer.Option(
            "-m",
            "--model",
            metavar="MODEL",
            autocompletion=completion.models,
            help="Target: a curated pair (stories), org/name[@revision] of the hub, a local folder, a .gguf file.",
        ),
    ] = None
    draft: Annotated[
        str,
        typer.Option(
            "-d",
            "-md",
            "--draft",
            "--draft-model",
            metavar="DRAFT",
            autocompletion=completion.drafts,
            help="A model like -m, 'lookup' (n-grams of the prompt and output), 'none', or 'auto': the draft of the"
            " curated pair, otherwise a smaller model of the family, otherwise lookup.",
        ),
    ] = DRAFT
    num_draft_tokens: Annotated[
        int | None,
        typer.Option(
            "-k",
            "--num-draft-tokens",
            parser=_draft_length,
            metavar="auto|K",
            help="Tokens to draft in each round; auto: the number that pays, possibly none.",
        ),
    ] = _ENGINE.num_draft_tokens
    no_lookup: Annotated[
        bool, typer.Option("--no-lookup", help="Draft only with the draft model, without n-grams.")
    ] = not _ENGINE.lookup
    device: Annotated[Device, typer.Option(help="Where to run.")] = _ENGINE.device
    dtype: Annotated[Dtype, typer.Option(help="Number format; auto: float32 on a CPU, otherwise bfloat16.")] = (
        _ENGINE.dtype
    )
    quant: Annotated[
        Quant,
        typer.Option(
            help="Weights of 8 or 4 bits; auto: int8 on a CPU if it pays and --dtype is not given, a draft has 4 bits."
        ),
    ] = _ENGINE.quant
    threads: Annotated[
        int | None, typer.Option(min=1, max=1024, metavar="N", help="CPU threads; default: all cores.")
    ] = None
    ctx_size: Annotated[
        int | None, typer.Option(min=2, metavar="N", help="Context length in tokens, prompt and answer together.")
    ] = None
    offline: Annotated[bool, typer.Option("--offline", help="Use only what is cached; make no connection.")] = False
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code of the model repository.")
    ] = False

    compile: Annotated[
        bool,
        typer.Option(
            "--compile",
            help="Compile passes with torch.compile: tens of seconds for each number of tokens in a pass. If two tokens"
            " score nearly alike, the text may differ from that of a run without it.",
        ),
    ] = False
    no_exact: Annotated[
        bool,
        typer.Option(
            "--no-exact",
            help="On a GPU, let a pass have any width. If two tokens score nearly alike, the text may differ from that"
            " of a plain run.",
        ),
    ] = False
    verbose: Annotated[bool, typer.Option("--verbose", help="Explain what is chosen and why.")] = False
    yes: Annotated[
        bool, typer.Option("-y", "--yes", help="If no model is named, use the suggested one without a question.")
    ] = False

    def engine(self) -> EngineOptions:
        return EngineOptions(
            device=self.device,
            dtype=self.dtype,
            quant=self.quant,
            threads=self.threads,
            ctx_size=self.ctx_size,
            num_draft_tokens=self.num_draft_tokens,
            lookup=not self.no_lookup,
            offline=self.offline,
            trust_remote_code=self.trust_remote_code,
            verbose=self.verbose,
            compile=self.compile,
            exact=not self.no_exact,
        )


@dataclass(frozen=True, slots=True)
class GenerationOptions:
    heading: ClassVar = "Generation"
    max_tokens: Annotated[
        int | None, typer.Option("-n", "--max-tokens", min=1, metavar="N", help="Maximum number of tokens to generate.")
    ] = None
    temperature: Annotated[
        float | None, typer.Option("--temp", "--temperature", min=0.0, metavar="T", help="0 is greedy.")
    ] = None
    top_k: Annotated[
        int | None, typer.Option(min=0, metavar="K", help="Sample from the K likeliest tokens; 0: all.")
    ] = None
    top_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, metavar="P", help="Sample from the likeliest tokens with total probability P."),
    ] = None
    min_p: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, metavar="P", help="Sample from tokens at least P times as likely as the first."),
    ] = None
    repetition_penalty: Annotated[
        float | None, typer.Option("--repetition-penalty", "--repeat-penalty", min=0.01, metavar="X", help="1: none.")
    ] = None
    presence_penalty: Annotated[float | None, typer.Option(metavar="X", help="0: none.")] = None
    frequency_penalty: Annotated[float | None, typer.Option(metavar="X", help="0: none.")] = None
    seed: Annotated[
        int | None,
        typer.Option(min=0, metavar="N", help="Repeats a run; random and reported if not given."),
    ] = None
    stop: Annotated[list[str], typer.Option(metavar="TEXT", help="End the answer before TEXT. Repeatable.")] = (
        dataclasses.field(default_factory=list)
    )

    def sampling(self) -> SamplingChoice:
        return SamplingChoice(**{name: getattr(self, name) for name in SamplingChoice.__slots__})


Think = Annotated[
    bool | None,
    typer.Option("--think/--no-think", help="Switch the thinking of a reasoning model on or off, if its template can."),
]


@dataclass(frozen=True, slots=True)
class ThinkingOptions:
    heading: ClassVar = "Thinking"
    think: Think = None
    hide_thinking: Annotated[
        bool,
        typer.Option("--hide-thinking", help="Do not show thinking on a terminal; a pipe never shows it."),
    ] = False


@dataclass(frozen=True, slots=True)
class ConstraintOptions:
    heading: ClassVar = "Structure"
    json_schema: Annotated[
        str | None,
        typer.Option(
            "-j",
            "--json-schema",
            metavar="FILE|STRING",
            help="The answer is JSON that fits this schema; see docs/structured.md.",
        ),
    ] = None
    regex: Annotated[str | None, typer.Option("--regex", metavar="REGEX", help="The whole answer matches REGEX.")] = (
        None
    )
    grammar: Annotated[
        str | None,
        typer.Option(
            "--grammar",
            metavar="FILE|STRING",
            help="The answer fits this grammar (Lark, or GBNF of llama.cpp).",
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class OutputOptions:
    heading: ClassVar = "Output"
    color: Annotated[Color, typer.Option(help="Colour on a terminal; NO_COLOR and FORCE_COLOR apply too.")] = Color.AUTO
    color_source: Annotated[
        bool,
        typer.Option(
            "--color-source",
            help="Colour text on a terminal by its source: draft, lookup, history, forced, corrected, bonus.",
        ),
    ] = False
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Append a line of JSON to FILE for every round.")
    ] = None
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Print only the text and errors.")] = False
    no_log: NoLog = False


@dataclass(frozen=True, slots=True)
class CostOptions:
    cost: Annotated[
        bool,
        typer.Option("--cost", help="Print the cost of a million tokens after the summary."),
    ] = False
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="Price of this machine for one hour; with --cost.")
    ] = None
    price_per_kwh: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="Price of one kWh; with --cost.")
    ] = None

    def prices(self) -> Prices | None:
        """The prices, or None without --cost. Raises UsageError for a price without --cost."""
        prices = Prices(self.price_per_hour, self.price_per_kwh)
        if not self.cost and prices != Prices():
            raise UsageError("a price has no effect by itself", hint="add --cost")
        return prices if self.cost else None


@dataclass(frozen=True, slots=True)
class InputOptions:
    heading: ClassVar = "Input"
    system: Annotated[str | None, typer.Option("-s", "--system", metavar="TEXT", help="System prompt.")] = None
    file: Annotated[
        list[Path],
        typer.Option("-f", "--file", metavar="FILE", help="Put FILE before the prompt; - is stdin. Repeatable."),
    ] = dataclasses.field(default_factory=list)
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text as it is, without a chat template.")] = False


@dataclass(frozen=True, slots=True)
class OneShotOptions:
    heading: ClassVar = "One answer"
    continue_: Annotated[
        bool, typer.Option("-c", "--continue", help="Continue the last conversation of the history with its models.")
    ] = False
    continue_from: Annotated[
        int | None,
        typer.Option(
            "--continue-from", min=1, metavar="ID", help="Continue the conversation of answer ID, see specgen log."
        ),
    ] = None
    template: Annotated[
        templates.Template | None,
        typer.Option(
            "-t",
            "--template",
            metavar="NAME",
            parser=templates.load,
            callback=preset,
            is_eager=True,
            autocompletion=completion.templates,
            help="Use a template: its prompt around the input, and its options as defaults.",
        ),
    ] = None
    variable: Annotated[
        list[str],
        typer.Option("-p", "--param", metavar="KEY=VALUE", help="Fill a variable of the template. Repeatable."),
    ] = dataclasses.field(default_factory=list)
    save: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Save the prompt and the given options as a template; answer nothing."),
    ] = None
    extract_code: Annotated[
        bool, typer.Option("--extract-code", help="Write only the first code block and end the answer after it.")
    ] = False
    copy: Annotated[bool, typer.Option("--copy", help="Also copy the answer to the clipboard.")] = False


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Turn every field of the dataclass parameters of `command` into an option under the `heading` of its dataclass.

    The command also gets --profile, and settings become the defaults of its options.
    """
    hints = inspect.get_annotations(command, eval_str=True)
    parameters: list[inspect.Parameter] = []
    groups: dict[str, tuple[type, list[str]]] = {}
    for name, parameter in inspect.signature(command).parameters.items():
        kind = hints[name]
        if not dataclasses.is_dataclass(kind) or not isinstance(kind, type):
            parameters.append(parameter.replace(annotation=kind, kind=inspect.Parameter.KEYWORD_ONLY))
            continue
        groups[name] = (kind, [field.name for field in dataclasses.fields(kind)])
        parameters += [_as_parameter(field, kind) for field in dataclasses.fields(kind)]

    @functools.wraps(command)
    def flat(**values: Any) -> None:
        del values["profile"]  # `configure` has used it
        made = {name: kind(**{field: values[field] for field in fields}) for name, (kind, fields) in groups.items()}
        in_groups = {field for _, fields in groups.values() for field in fields}
        command(**{name: value for name, value in values.items() if name not in in_groups}, **made)

    parameters.append(inspect.Parameter("profile", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=_Profile))
    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    del flat.__wrapped__
    return flat


def _as_parameter(field: dataclasses.Field[Any], kind: type) -> inspect.Parameter:
    hint = inspect.get_annotations(kind, eval_str=True)[field.name]
    hint.__metadata__[0].rich_help_panel = getattr(kind, "heading", None)
    default = field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
    return inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=hint)
