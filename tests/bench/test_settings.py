"""Settings as the command line writes them and as a report carries them."""

import dataclasses
import json

import pytest

from specgen.bench.settings import BenchSettings, Sweep, parse_sweep, pin_revisions, settings_from_dict
from specgen.core.errors import UsageError
from specgen.core.prices import Prices
from specgen.core.types import Dtype, EngineOptions, Quant, SamplingParams


def test_fixed_draft_lengths_stand_beside_auto() -> None:
    assert parse_sweep(["k=1..3"]).draft_lengths == (None, 1, 2, 3)
    assert parse_sweep(["k=4,auto,2"]).draft_lengths == (None, 4, 2)
    assert parse_sweep(["k=auto"]).draft_lengths == ()


def test_axes_are_given_one_by_one() -> None:
    sweep = parse_sweep(["quant=int8,none", "dtype=float32", "temp=0,0.8"])
    assert sweep == Sweep((), (Quant.INT8, Quant.NONE), (Dtype.FLOAT32,), (0.0, 0.8))


@pytest.mark.parametrize(
    "text", ["k", "k=", "k=0", "k=3..1", "k=1..99", "k=x", "speed=1", "quant=int3", "temp=-1", "temp=nan", "dtype=f32"]
)
def test_what_makes_no_sense_is_refused_with_what_does(text: str) -> None:
    with pytest.raises(UsageError, match="--sweep") as caught:
        parse_sweep([text])
    assert caught.value.hint


def test_an_axis_is_named_once() -> None:
    with pytest.raises(UsageError):
        parse_sweep(["k=1", "k=2"])


def test_settings_survive_a_report() -> None:
    settings = BenchSettings(
        "org/big",
        engine=EngineOptions(quant=Quant.INT8, threads=3, num_draft_tokens=4),
        categories=("chat",),
        drafters=("model",),
        sweep=parse_sweep(["k=1..2", "temp=0,0.8", "quant=none"]),
        sampling=SamplingParams(seed=7),
        peer_gguf=("a.gguf",),
        prices=Prices(1.5),
    )
    assert settings_from_dict(json.loads(json.dumps(dataclasses.asdict(settings)))) == settings


def test_a_rerun_takes_the_revisions_that_were_measured() -> None:
    header = {"target": {"id": "org/big", "revision": "abc"}, "draft": {"id": "./small", "revision": None}}
    again = pin_revisions(BenchSettings("pair", draft="auto"), header)
    assert (again.target, again.draft) == ("org/big@abc", "auto")
