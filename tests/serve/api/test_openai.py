"""The real openai client against the pair that comes with specgen."""

import json
from typing import Any

import openai
import pytest
from openai import OpenAI

from specgen.core.events import Finished
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.session.session import Session
from tests.serve.running import Running

# A fixed draft length, so that no notice depends on how fast the machine is.
OPTIONS = EngineOptions(num_draft_tokens=4)

PROMPT = "Once upon a time"
SCHEMA = {
    "type": "object",
    "properties": {"hero": {"enum": ["fox", "king"]}, "age": {"type": "integer", "minimum": 1, "maximum": 99}},
    "required": ["hero", "age"],
    "additionalProperties": False,
}
NO_SCHEMA = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": 3}}}


def test_the_model_is_listed(client: OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["fake"]
    assert client.models.retrieve("fake").owned_by == "specgen"
    with pytest.raises(openai.NotFoundError, match="no model 'other' here"):
        client.models.retrieve("other")


def test_a_completion_is_what_the_pair_says_without_a_server(client: OpenAI, session: Session) -> None:
    answer = client.completions.create(model="fake", prompt=PROMPT, temperature=0, max_tokens=24)
    choice = answer.choices[0]
    assert choice.finish_reason == "length"
    assert answer.usage
    assert answer.usage.completion_tokens == 24
    assert answer.usage.total_tokens == 24 + answer.usage.prompt_tokens
    drafted, accepted = answer.usage.drafted_tokens, answer.usage.accepted_tokens  # type: ignore[attr-defined]
    assert drafted >= accepted >= 0
    *_, last = session.generate(PROMPT, raw=True, sampling=SamplingChoice(temperature=0), max_new_tokens=24)
    assert isinstance(last, Finished)
    assert choice.text == last.text


def test_a_stream_says_the_same(client: OpenAI) -> None:
    asked = {"model": "fake", "prompt": PROMPT, "seed": 7, "temperature": 0.8, "max_tokens": 24}
    whole = client.completions.create(**asked)
    chunks = list(client.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == whole.choices[0].text
    assert len(chunks) > 3
    assert chunks[-2].choices[0].finish_reason == "length"
    assert chunks[-1].choices == []
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == 24
    assert chunks[-2].specgen["seed"] == 7
    without = list(client.completions.create(**asked, stream=True))
    assert without[-1].choices[0].finish_reason == "length"


def test_an_answer_keeps_to_its_schema(client: OpenAI) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "hero", "strict": True, "schema": SCHEMA}}
    asked = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}], "seed": 1, "max_tokens": 60}
    answer = client.chat.completions.create(**asked, response_format=form)
    assert answer.choices[0].finish_reason == "stop"
    hero = json.loads(answer.choices[0].message.content or "")
    assert hero["hero"] in ("fox", "king")
    assert 1 <= hero["age"] <= 99
    chunks = client.chat.completions.create(**asked, response_format=form, stream=True)
    assert json.loads("".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)) == hero
    whole = client.chat.completions.create(**asked | {"max_tokens": 200}, response_format={"type": "json_object"})
    if whole.choices[0].finish_reason == "stop":
        assert isinstance(json.loads(whole.choices[0].message.content or ""), dict)


def test_a_chat(client: OpenAI) -> None:
    messages = [
        {"role": "system", "content": "A tale."},
        {"role": "user", "content": [{"type": "text", "text": PROMPT}]},
    ]
    asked = {"model": "fake", "messages": messages, "temperature": 0, "max_completion_tokens": 12}
    whole = client.chat.completions.create(**asked)
    assert whole.choices[0].message.role == "assistant"
    assert whole.choices[0].message.content
    assert whole.specgen["notices"] == ["this model has no chat template: it continues the text"]
    chunks = list(client.chat.completions.create(**asked, stream=True))
    assert chunks[0].choices[0].delta.role == "assistant"
    said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert said == whole.choices[0].message.content


def test_stop_strings_end_the_answer_before_them(client: OpenAI) -> None:
    asked = {"model": "fake", "prompt": PROMPT, "temperature": 0, "max_tokens": 24}
    text = client.completions.create(**asked).choices[0].text
    word = text.split()[3]
    for stop in (word, ["never said", word]):
        choice = client.completions.create(**asked, stop=stop).choices[0]
        assert choice.text == text[: text.index(word)]
        assert choice.finish_reason == "stop"


def test_sampling_is_what_was_asked_for(client: OpenAI) -> None:
    asked = {"model": "fake", "prompt": PROMPT, "max_tokens": 16, "temperature": 1.0, "top_p": 0.9}
    texts = {seed: client.completions.create(**asked, seed=seed).choices[0].text for seed in (1, 2)}
    assert texts[1] != texts[2]
    assert client.completions.create(**asked, seed=1).choices[0].text == texts[1]
    penalised = client.completions.create(**asked, seed=1, presence_penalty=2.0, frequency_penalty=2.0)
    assert penalised.choices[0].text != texts[1]
    narrow = client.completions.create(**asked, seed=1, extra_body={"top_k": 1}).choices[0].text
    assert narrow == client.completions.create(**asked | {"temperature": 0}).choices[0].text


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"n": 2}, "n"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"response_format": {"type": "yaml"}}, "response_format"),
        ({"response_format": NO_SCHEMA}, "response_format"),
        ({"tools": [{"type": "function", "function": {"name": "x"}}]}, "tools"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 1.5}, "top_p"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": 5, "max_completion_tokens": 5}, "max_tokens"),
        ({"stop": [str(n) for n in range(17)]}, "stop"),
        ({"seed": 1 << 63}, "seed"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "y"}]}, "messages.0.role"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]},
            "messages.0.content",
        ),
        ({"extra_body": {"max_token": 5}}, "max_token"),
    ],
    ids=str,
)
def test_what_is_not_supported_is_refused_by_name(client: OpenAI, more: dict[str, object], param: str) -> None:
    asked = {"model": "fake", "messages": [{"role": "user", "content": "hi"}]} | more
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**asked)
    assert caught.value.param == param
    assert param.split(".", maxsplit=1)[0] in str(caught.value)


def test_completions_refuse_by_name_too(client: OpenAI) -> None:
    more: dict[str, Any]
    for more in (
        {"echo": True, "logprobs": 1},
        {"echo": True, "prompt": [5, 6]},
        {"suffix": "x"},
        {"best_of": 2},
        {"logprobs": 6},
        {"prompt": []},
        {"prompt": ["a"] * 33},
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            client.completions.create(**{"model": "fake", "prompt": "hi"} | more)
        assert caught.value.param == next(iter(more))


def test_fields_that_change_nothing_are_accepted(client: OpenAI) -> None:
    answer = client.chat.completions.create(
        model="fake",
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=1,
        n=1,
        logprobs=False,
        response_format={"type": "text"},
        user="somebody",
        store=False,
        metadata={"a": "b"},
    )
    assert answer.usage
    assert answer.usage.completion_tokens == 1


def test_another_model_and_a_prompt_that_is_too_long_are_told(client: OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as caught:
        client.completions.create(model="gpt-4", prompt="hi")
    assert caught.value.code == "model_not_found"
    for stream in (False, True):
        with pytest.raises(openai.BadRequestError) as long:
            client.completions.create(model="fake", prompt="word " * 20_000, stream=stream)
        assert long.value.code == "context_length_exceeded"
        assert "the context holds" in str(long.value)


def test_two_callers_with_long_prompts_do_not_read_each_others_again(
    client: OpenAI, session: Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    target: Any = session.pair.target
    compute, counts = target._compute, []

    def counting(parts: Any) -> object:
        counts.append(sum(len(part.ids) for part in parts))
        return compute(parts)

    monkeypatch.setattr(target, "_compute", counting)
    texts = ["The king had a daughter. " * 20, "A wolf lived in the wood. " * 20]
    read = []
    for text in [*texts, *texts]:
        counts.clear()
        client.completions.create(model="fake", prompt=text, max_tokens=1, temperature=0)
        read.append(sum(counts))
    assert min(read[:2]) > 80
    assert max(read[2:]) < 5


def test_metrics_count_what_was_answered(server: Running) -> None:
    def figures() -> dict[str, float]:
        with server.http() as http:
            assert http.get("/health").json() == {"status": "ok"}
            lines = http.get("/metrics").text.splitlines()
        return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[0] != "#")}

    before = figures()
    with server.openai() as client:
        client.completions.create(model="fake", prompt=PROMPT, temperature=0, max_tokens=12)
    after = figures()
    grown = {name: after[name] - before.get(name, 0.0) for name in after}
    assert grown["specgen_generated_tokens_total"] == 12
    assert grown["specgen_drafted_tokens_total"] >= grown["specgen_accepted_tokens_total"]
    assert grown["specgen_prompt_tokens_total"] == 5
    assert grown['specgen_requests_total{endpoint="/v1/completions",status="200"}'] == 1
    assert grown["specgen_first_token_seconds_count"] == grown["specgen_queue_seconds_count"] == 1
    assert after["specgen_queue_length"] == after["specgen_running"] == 0
