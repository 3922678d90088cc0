"""specgen stats: acceptance and speed-up of past answers."""

import dataclasses
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from specgen.cli.ui import print_json
from specgen.core.errors import UsageError
from specgen.core.prices import Prices

if TYPE_CHECKING:
    from specgen.history.stats import Trend

_BARS = "▁▂▃▄▅▆▇█"
_DIGITS = "01234567"  # for an encoding without block characters
_NO_WEEK = "."


def command(
    cost: Annotated[
        bool, typer.Option("--cost", help="Also show the cost of a million tokens, with and without speculation.")
    ] = False,
    price_per_hour: Annotated[
        float | None, typer.Option(min=0.0, metavar="MONEY", help="Price of this machine for one hour; with --cost.")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object instead of tables.")] = False,
) -> None:
    """Show acceptance and speed-up of past answers, by model pair and by template.

    WEEKS shows the acceptance rate of each of the last 12 weeks. A line below the table reports a clear drop of the
    acceptance rate in the latest 20 answers with a draft.

    Examples:

        specgen stats --json
        specgen stats --cost --price-per-hour 2.5
    """
    if price_per_hour is not None and not cost:
        raise UsageError("a price has no effect by itself", hint="add --cost")
    prices = Prices(price_per_hour) if cost else None

    from specgen.history.recorder import open_history
    from specgen.history.stats import by_pair, by_template
    from specgen.render.terminal import put, sanitize

    now = datetime.now(UTC)
    with open_history() as answers:
        samples = list(answers.samples())
    pairs, templates = by_pair(samples, now), by_template(samples, now)
    if json:
        data = {
            "pairs": [
                {"target": target, "draft": draft, **_data(trend, prices)} for (target, draft), trend in pairs.items()
            ],
            "templates": [{"template": name, **_data(trend, prices)} for name, trend in templates.items()],
        }
        print_json(data)
        return
    if not samples:
        typer.echo("specgen: the history is empty", err=True)
        return
    named = [(f"{_name(target)} + {_name(draft)}", trend) for (target, draft), trend in pairs.items()]
    tables = [_table("PAIR", named), *([_table("TEMPLATE", list(templates.items()))] if templates else [])]
    tables += [_costs(named, prices)] if prices else []
    notices = [[_notice(name, trend)] for name, trend in [*named, *templates.items()] if trend.drift]
    put(sys.stdout, sanitize("\n\n".join("\n".join(lines) for lines in [*tables, *notices])) + "\n")


def _name(model: str) -> str:
    """The last part of a path, or the whole id of the hub."""
    return Path(model).name if model.startswith(("/", ".", "~")) else model


def _table(title: str, trends: Sequence[tuple[str, "Trend"]]) -> list[str]:
    from specgen.render.terminal import align

    rows = [("ANSWERS", "TOKENS", "ACCEPTANCE", "LENGTH", "SPEED-UP", "WEEKS", title)]
    for name, trend in trends:
        rate, length, speed_up = trend.acceptance_rate, trend.mean_acceptance_length, trend.speed_up
        rows.append(
            (
                str(trend.answers),
                str(trend.generated_tokens),
                "-" if rate is None else f"{100 * rate:.0f} %",
                "-" if length is None else f"{length:.1f}",
                "-" if speed_up is None else f"{speed_up:.1f}x",
                "".join(_bar(week) for week in trend.weeks),
                name,
            )
        )
    return align(rows, right=range(5))


def _data(trend: "Trend", prices: Prices | None) -> dict[str, Any]:
    data = dataclasses.asdict(trend)
    if prices:
        with_it, without = trend.per_million(prices)
        data["per_million"] = {"with": dataclasses.asdict(with_it), "without": dataclasses.asdict(without)}
    return data


def _costs(trends: Sequence[tuple[str, "Trend"]], prices: Prices) -> list[str]:
    """Hours and money for a million tokens of each pair; figures without speculation are estimates."""
    rows = [("A MILLION TOKENS", "WITHOUT", "MONEY", "WITHOUT", "PAIR")]
    for name, trend in trends:
        with_it, without = trend.per_million(prices)
        hours, more = _figure(with_it.hours, " h"), _figure(without.hours, " h", "~")
        rows.append((hours, more, _figure(with_it.money), _figure(without.money, "", "~"), name))
    return [f"{hours:>16}  {more:>10}  {money:>9}  {plain:>9}  {name}" for hours, more, money, plain, name in rows]


def _figure(value: float | None, unit: str = "", about: str = "") -> str:
    return "-" if value is None else f"{about}{value:.2f}{unit}"


def _bar(rate: float | None) -> str:
    if rate is None:
        return _NO_WEEK
    try:
        _BARS.encode(sys.stdout.encoding or "utf-8")
        bars = _BARS
    except UnicodeEncodeError:
        bars = _DIGITS
    return bars[min(len(bars) - 1, int(rate * len(bars)))]


def _notice(name: str, trend: "Trend") -> str:
    drift = trend.drift
    assert drift is not None  # noqa: S101
    fall = f"from {100 * drift.earlier:.0f} % to {100 * drift.recent:.0f} % in the latest {drift.answers} answers"
    return (
        f"{name}: acceptance has drifted down, {fall}; possible causes are other prompts, sampling or a"
        " new revision; another draft may be better, or a head trained on these prompts (specgen train)"
    )
