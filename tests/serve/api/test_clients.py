"""Requests as real clients send them: what they mean is done, and what cannot matter is ignored."""

import json
from typing import Any

import pytest

from specgen.core.errors import SpecgenError
from specgen.core.types import EngineOptions, Message
from specgen.serve.api.requests import read_chat, read_completion
from specgen.session.prompt import chat_prompt, raw_prompt
from specgen.session.session import Session
from tests.serve.running import Running

OPTIONS = EngineOptions(num_draft_tokens=3)
CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
PROMPT = "Once upon a time"
JSON = {"content-type": "application/json"}


def post(server: Running, path: str, body: dict[str, Any]) -> dict[str, Any]:
    with server.http() as client:
        answer = client.post(path, json={"temperature": 0, "max_tokens": 8} | body)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def text_of(server: Running, body: dict[str, Any]) -> str:
    return str(post(server, COMPLETIONS, body)["choices"][0]["text"])


@pytest.mark.parametrize(
    ("more", "same"),
    [
        ({"max_tokens": 4.0, "n": 1.0, "top_k": 1.0}, {"max_tokens": 4, "top_k": 1}),
        ({"stop": ""}, {}),
        ({"stop": ["", "never said"]}, {}),
        ({"stop": []}, {}),
        ({"logprobs": False, "echo": False, "suffix": ""}, {}),
        ({"user": "somebody", "store": True, "metadata": {"a": "b"}, "cache_prompt": True}, {}),
        ({"prompt": [PROMPT]}, {}),
    ],
    ids=str,
)
def test_what_can_be_taken_is_taken(server: Running, more: dict[str, Any], same: dict[str, Any]) -> None:
    assert text_of(server, {"prompt": PROMPT} | more) == text_of(server, {"prompt": PROMPT} | same)


def test_numbers_with_a_meaning_of_their_own() -> None:
    """-1 is no limit, and a random seed."""
    request = read_completion(b'{"prompt": "a", "max_tokens": -1, "seed": -1, "top_k": -1}', 16)
    assert (request.max_new_tokens, request.sampling.seed, request.sampling.top_k) == (None, None, None)
    assert read_completion(b'{"prompt": "a", "seed": -7}', 16).sampling.seed == (1 << 63) - 7
    chat = b'{"messages": [{"role": "user", "content": "a"}], "seed": 3.0, "max_completion_tokens": 2.0}'
    assert (read_chat(chat, 16).sampling.seed, read_chat(chat, 16).max_new_tokens) == (3, 2)


def test_fields_of_reasoning_models() -> None:
    asked: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}]}
    for more, think in (
        ({"reasoning_effort": "none"}, False),
        ({"reasoning_effort": "high"}, None),
        ({"chat_template_kwargs": {"enable_thinking": False}}, False),
        ({"chat_template_kwargs": {"thinking": True}}, True),
    ):
        request = read_chat(json.dumps(asked | more).encode(), 16)
        assert request.think is think, more
        assert request.ignored == (("reasoning_effort",) if think is None else ()), more


def test_an_empty_answer_is_sent_back_as_null(server: Running) -> None:
    turns = [{"role": "user", "content": "A king"}, {"role": "assistant", "content": None}]
    body = {"messages": [*turns, {"role": "user", "content": "had a daughter"}]}
    assert post(server, CHAT, body)["choices"][0]["message"]["content"]
    request = read_chat(json.dumps(body).encode(), 16)
    assert request.messages
    assert request.messages[1] == Message("assistant", "")
    with server.http() as client:
        for turn, at in (
            ({"role": "user", "content": None}, "messages.0.content"),
            ({"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}, "messages.0.tool_calls"),
        ):
            refused = client.post(CHAT, json={"messages": [turn]})
            assert (refused.status_code, refused.json()["error"]["param"]) == (400, at)


def test_a_byte_order_mark_and_another_case_of_the_content_type(server: Running) -> None:
    body = b"\xef\xbb\xbf" + json.dumps({"prompt": PROMPT, "max_tokens": 1}).encode()
    with server.http() as client:
        assert client.post(COMPLETIONS, content=body, headers=JSON).status_code == 200
        kind = {"content-type": "Application/JSON; charset=UTF-8"}
        assert client.post(COMPLETIONS, content=body, headers=kind).status_code == 200


def test_a_list_of_prompts_has_an_answer_each(server: Running) -> None:
    prompts = [PROMPT, "A king had a daughter"]
    apart = [post(server, COMPLETIONS, {"prompt": prompt}) for prompt in prompts]
    whole = post(server, COMPLETIONS, {"prompt": prompts})
    assert [choice["index"] for choice in whole["choices"]] == [0, 1]
    assert [choice["text"] for choice in whole["choices"]] == [each["choices"][0]["text"] for each in apart]
    for count in ("prompt_tokens", "completion_tokens"):
        assert whole["usage"][count] == sum(each["usage"][count] for each in apart)
    streamed = ["", ""]
    with server.openai() as client:
        for chunk in client.completions.create(model="fake", prompt=prompts, temperature=0, max_tokens=8, stream=True):
            streamed[chunk.choices[0].index] += chunk.choices[0].text
    assert streamed == [choice["text"] for choice in whole["choices"]]


def test_token_ids_are_a_prompt(server: Running, session: Session) -> None:
    ids = list(raw_prompt(session.pair.tokenizer, PROMPT).ids)
    expected = text_of(server, {"prompt": PROMPT})
    assert text_of(server, {"prompt": ids}) == text_of(server, {"prompt": [ids]}) == expected
    with server.http() as client:
        for wrong in ([1 << 40], [-1]):
            refused = client.post(COMPLETIONS, json={"prompt": wrong})
            assert refused.status_code == 400
            assert f"token id {wrong[0]} is not in the vocabulary" in refused.json()["error"]["message"]


def test_echo_puts_the_prompt_before_the_text(server: Running) -> None:
    plain = text_of(server, {"prompt": PROMPT})
    assert text_of(server, {"prompt": PROMPT, "echo": True}) == PROMPT + plain
    asked: dict[str, Any] = {"model": "fake", "prompt": PROMPT, "echo": True, "temperature": 0, "max_tokens": 8}
    with server.openai() as client:
        chunks = client.completions.create(**asked, stream=True)
        assert "".join(chunk.choices[0].text for chunk in chunks) == PROMPT + plain


def test_a_last_message_of_the_assistant_is_continued(server: Running, session: Session) -> None:
    messages = (Message("user", "Tell a story."), Message("assistant", "Once upon a time there"))
    prompt = chat_prompt(session.pair.tokenizer, messages)
    assert prompt.text.endswith("Once upon a time there")
    whole = post(server, CHAT, {"messages": [{"role": turn.role, "content": turn.content} for turn in messages]})
    assert whole["usage"]["prompt_tokens"] == len(prompt.ids)
    assert whole["choices"][0]["message"]["content"] == text_of(server, {"prompt": prompt.text})


def test_a_field_without_an_effect_is_logged_once(server: Running) -> None:
    for _ in range(2):
        text_of(server, {"prompt": PROMPT, "service_tier": "flex"})
    assert server.notices.count("a caller sends 'service_tier', which has no effect here") == 1


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": False}, "required": ["a"]},
        {"type": "string", "minLength": 5, "maxLength": 1},
        {"type": "integer", "minimum": 5, "maximum": 1},
        {"enum": []},
        {"allOf": [{"type": "string"}, {"type": "integer"}]},
        {"$ref": "#/nowhere"},
        {"type": "string", "pattern": "("},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"type": "object", "properties": {"a": {"type": "strin"}}},
        {"not": {}},
        {"anyOf": []},
    ],
    ids=str,
)
def test_an_impossible_schema_is_the_callers_fault(server: Running, schema: dict[str, Any]) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    with server.http() as client:
        body = {"messages": [{"role": "user", "content": "a"}], "response_format": form, "max_tokens": 4}
        refused = client.post(CHAT, json=body)
    assert (refused.status_code, refused.json()["error"]["param"]) == (400, "response_format"), refused.text


def test_a_schema_that_fails_while_it_is_followed_is_too(server: Running) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "#"}}}
    with server.http() as client:
        body = {"messages": [{"role": "user", "content": "a"}], "response_format": form, "max_tokens": 4}
        refused = client.post(CHAT, json=body)
    assert refused.status_code == 400
    assert refused.json()["error"]["message"].startswith("the constraint cannot be followed")


def test_a_stream_has_no_line_ends_but_its_own(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = "a\u2028b\u2029c\u0085d"

    def fail(*_: object, **__: object) -> None:
        raise SpecgenError(ends)

    monkeypatch.setattr(Session, "run", fail)
    monkeypatch.setattr("specgen.serve.api.app._until_started", _nothing)
    with server.http() as client:
        text = client.post(COMPLETIONS, json={"prompt": PROMPT, "stream": True}).text
    (line,) = [line for line in text.splitlines() if line]
    assert json.loads(line.removeprefix("data: "))["error"]["message"] == ends


async def _nothing(_: object) -> list[Any]:
    return []
