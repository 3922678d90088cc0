"""The recommendations of a model's files, and how the user overrides them."""

import json
from pathlib import Path
from typing import Any

import pytest

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import BadFile
from specgen.core.types import ModelRef, SamplingChoice, SamplingParams
from specgen.session.generation_defaults import end_ids, resolve_sampling
from tests import fakes

CHOSEN = SamplingChoice(seed=1)
GREEDY = SamplingParams(seed=1)
QWEN = {"do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8, "repetition_penalty": 1.05}


@pytest.mark.parametrize(
    ("recommended", "choice", "expected"),
    [
        ({}, CHOSEN, GREEDY),
        ({"temperature": 0.7, "top_p": 0.8}, CHOSEN, GREEDY),  # without do_sample it means nothing
        ({"do_sample": False, "temperature": 0.7}, CHOSEN, GREEDY),
        ({"do_sample": True}, CHOSEN, SamplingParams(temperature=1.0, seed=1)),
        ({"do_sample": True, "top_k": None}, CHOSEN, SamplingParams(temperature=1.0, seed=1)),
        ({"repetition_penalty": 1.1}, CHOSEN, SamplingParams(repetition_penalty=1.1, seed=1)),
        (
            QWEN,
            CHOSEN,
            SamplingParams(temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05, seed=1),
        ),
        (
            QWEN,
            SamplingChoice(temperature=0.0, seed=1),
            SamplingParams(temperature=0.0, top_k=20, top_p=0.8, repetition_penalty=1.05, seed=1),
        ),
        (
            QWEN,
            SamplingChoice(temperature=1.2, top_k=0, repetition_penalty=1.0, seed=1),
            SamplingParams(temperature=1.2, top_k=0, top_p=0.8, seed=1),
        ),
        ({}, SamplingChoice(temperature=0.5, seed=1), SamplingParams(temperature=0.5, seed=1)),
        ({}, SamplingChoice(top_p=0.9, seed=1), SamplingParams(temperature=1.0, top_p=0.9, seed=1)),
        ({}, SamplingChoice(top_k=5, temperature=0.0, seed=1), SamplingParams(temperature=0.0, top_k=5, seed=1)),
        ({"min_p": 0.1, "do_sample": True}, CHOSEN, SamplingParams(temperature=1.0, min_p=0.1, seed=1)),
        ({}, SamplingChoice(presence_penalty=0.5, frequency_penalty=0.2, seed=1), SamplingParams(
            presence_penalty=0.5, frequency_penalty=0.2, seed=1)),
    ],
)  # fmt: skip
def test_the_user_wins_over_the_model_and_the_model_over_greedy(
    recommended: dict[str, Any], choice: SamplingChoice, expected: SamplingParams
) -> None:
    assert resolve_sampling(choice, recommended) == expected


def test_a_whole_number_may_be_written_as_a_float() -> None:
    params = resolve_sampling(CHOSEN, QWEN | {"top_k": 50.0, "top_p": 1})
    assert (params.top_k, type(params.top_k), params.top_p, type(params.top_p)) == (50, int, 1.0, float)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("top_k", 50.5),
        ("top_k", "50"),
        ("top_k", -1),
        ("top_k", True),
        ("top_k", [50]),
        ("temperature", float("nan")),
        ("temperature", float("inf")),
        ("temperature", -0.5),
        ("top_p", 1.5),
        ("min_p", {}),
        ("repetition_penalty", 0),
        ("do_sample", "false"),
    ],
)
def test_a_value_that_makes_no_sense_is_named_and_can_be_overridden(name: str, value: object) -> None:
    recommended = QWEN | {name: value}
    with pytest.raises(BadFile, match=f"generation_config.json: {name} ") as caught:
        resolve_sampling(CHOSEN, recommended)
    assert caught.value.hint
    if name != "do_sample":
        assert getattr(resolve_sampling(SamplingChoice(**{name: 1}), recommended), name) == 1


@pytest.mark.parametrize("value", ["</s>", True, 1.5, float("nan"), float("inf"), [1, None], [[1]], {"id": 1}])
def test_an_end_token_that_makes_no_sense_is_named(tmp_path: Path, value: object) -> None:
    with pytest.raises(BadFile, match=r"generation_config\.json: eos_token_id is "):
        end_ids(checkpoint(tmp_path, {}, {"eos_token_id": value}), fakes.tokenizer(None))
    with pytest.raises(BadFile, match=r"/config\.json: eos_token_id is "):
        end_ids(checkpoint(tmp_path, {"eos_token_id": value}, {}), fakes.tokenizer(None))


def test_greedy_is_greedy_whatever_the_model_recommends() -> None:
    params = resolve_sampling(SamplingChoice(temperature=0.0), QWEN)
    assert params.greedy
    assert params.penalised


def test_a_seed_that_is_not_given_is_drawn() -> None:
    seeds = {resolve_sampling(SamplingChoice(), {}).seed for _ in range(20)}
    assert len(seeds) > 15
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert resolve_sampling(SamplingChoice(seed=0), {}).seed == 0


def checkpoint(folder: Path, config: dict[str, Any], generation: dict[str, Any] | None = None) -> Checkpoint:
    (folder / "config.json").write_text(json.dumps(config))
    if generation is not None:
        (folder / "generation_config.json").write_text(json.dumps(generation))
    return Checkpoint(ModelRef("fake"), folder)


PLAIN = fakes.tokenizer(chat_template=None)


@pytest.mark.parametrize(
    ("config", "generation", "expected"),
    [
        ({"eos_token_id": 5}, None, {5}),
        ({"eos_token_id": 5}, {}, {5}),
        ({"eos_token_id": 5}, {"eos_token_id": 7}, {7}),
        ({"eos_token_id": 5}, {"eos_token_id": [7, 9]}, {7, 9}),
        ({"eos_token_id": [5, 6]}, {"eos_token_id": None}, {5, 6}),
        ({"eos_token_id": 5}, {"eos_token_id": 0}, {0}),  # an id of zero is one
        ({}, None, {0}),  # the tokenizer's own
        ({"eos_token_id": None}, {"eos_token_id": None}, {0}),
    ],
)
def test_end_tokens_come_from_the_first_file_that_names_them(
    tmp_path: Path, config: dict[str, Any], generation: dict[str, Any] | None, expected: set[int]
) -> None:
    assert end_ids(checkpoint(tmp_path, config, generation), PLAIN) == expected


def test_a_model_that_names_no_end_token_has_none(tmp_path: Path) -> None:
    assert end_ids(checkpoint(tmp_path, {}), Tokenizer(fakes.backend())) == frozenset()


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (fakes.CHAT_TEMPLATE, {5, 0}),
        # White space before the end of the turn, and a turn that another token ends.
        (fakes.CHAT_TEMPLATE.replace("<|end|>", "\n<|end|>"), {5, 0}),
        (fakes.CHAT_TEMPLATE.replace("<|end|>", "<|start|>"), {5, 1}),
        # Text after the answer is no end token; a template that refuses, or forgets the answer, names none.
        (fakes.CHAT_TEMPLATE.replace("<|end|>", "#"), {5}),
        ("{{ raise_exception('no') }}", {5}),
        ("nothing", {5}),
        ("{% for message in messages %}{{ message.content }}{% endfor %}", {5}),
    ],
)
def test_the_templates_own_end_of_turn_ends_an_answer(tmp_path: Path, template: str, expected: set[int]) -> None:
    """Some generation_config.json omit it."""
    assert end_ids(checkpoint(tmp_path, {"eos_token_id": 5}), fakes.tokenizer(template)) == expected
