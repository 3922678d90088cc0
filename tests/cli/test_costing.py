"""The cost of an answer, after its summary."""

from pathlib import Path

import pytest

from specgen.bench import meters
from specgen.cli.cost import cost_line
from specgen.core.events import Stats
from specgen.core.prices import Prices
from tests.cli.command import invoke

# A thousand tokens in 18 s, which plain decoding would have taken 36 s for.
STATS = Stats(
    generated_tokens=1000, rounds=400, drafted_tokens=900, accepted_tokens=600, elapsed_s=18.0, one_token_s=(0.036,) * 4
)


def test_time_and_money_with_and_without_speculation() -> None:
    assert cost_line(STATS, None, Prices(per_hour=2.0)) == (
        "a million tokens like these 5.00 h, 10.00 in money · without speculation ~10.00 h, 20.00 in money"
    )


def test_energy_is_said_where_it_was_counted_and_missed_where_it_has_a_price() -> None:
    assert cost_line(STATS, 3600.0, Prices(per_kwh=0.5)).startswith(
        "a million tokens like these 5.00 h, 1.000 kWh, 0.50"
    )
    assert cost_line(STATS, None, Prices(per_kwh=0.5)).endswith(" · energy is not readable here")


def test_without_a_draft_there_is_one_figure() -> None:
    assert "without" not in cost_line(Stats(generated_tokens=10, rounds=10, elapsed_s=1.0), None, Prices())


def test_the_line_follows_the_text_of_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meters, "_RAPL", tmp_path)
    run = ("run", "-m", "stories", "-n", 4, "--threads", 1)
    outcome = invoke(*run, "--cost", "--price-per-hour", 1, "Once")
    assert outcome.code == 0
    assert "a million tokens like these" in outcome.err.splitlines()[-1]
    assert "in money" in outcome.err
    assert "a million" not in invoke(*run, "-q", "--cost", "Once").err
    refused = invoke(*run, "--price-per-hour", 1, "Once")
    assert (refused.code, refused.out, "add --cost" in refused.err) == (2, b"", True)
