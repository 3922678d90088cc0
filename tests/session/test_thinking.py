"""Thinking through a session: with constraints, special tokens as tags, and limits."""

import itertools
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tokenizers import AddedToken

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.events import Event, Failed, Finished, Notice
from specgen.core.types import Constraint, Message, SamplingChoice
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.session.conversation import Conversation
from specgen.session.prompt import chat_prompt
from specgen.session.session import Session
from tests.fakes import CHAT_TEMPLATE, Speaker, TableModel, fake_session, steps, tokenizer
from tests.serve.running import running

END = 0
HI = [Message("user", "hi")]
SIZE = 322
SCHEMA = (
    '{"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"], "additionalProperties": false}'
)
CONSTRAINTS = {
    "schema": (Constraint("json-schema", SCHEMA), '{"a": 12}'),
    "regex": (Constraint("regex", "(yes|no)"), "yes"),
    "gbnf": (Constraint("grammar", 'root ::= "the " ("fox" | "dog")'), "the dog"),
    "lark": (Constraint("grammar", 'start: "so" NUMBER\nNUMBER: /[0-9]+/'), "so7"),
}
TAGS = {
    "text": (None, "<think>", "</think>"),
    "added": (False, "<think>", "</think>"),
    "special": (True, "[THINK]", "[/THINK]"),
}


def reasoning(kind: str, *, opens: bool = True, switch: bool = False) -> Tokenizer:
    """A tokenizer with thinking tags, as text or as added tokens, whose template may open the thinking."""
    special, begin, end = TAGS[kind]
    ask = "{% if add_generation_prompt %}" + begin + "\n{% endif %}" if opens else "{# " + begin + end + " #}"
    if switch:
        ask = "{% if add_generation_prompt %}{% if enable_thinking is defined and not enable_thinking %}"
        ask += f"{begin}\n\n{end}\n\n{{% else %}}{begin}\n{{% endif %}}{{% endif %}}"
    made = tokenizer(CHAT_TEMPLATE + ask)
    if special is not None:
        made._backend.add_tokens([AddedToken(tag, special=special, normalized=False) for tag in (begin, end)])
        if special:
            made._backend.add_special_tokens([begin, end])
    return made


def session_of(
    made: Tokenizer, said: str, folder: Path, drafter: Drafter | None = None, *, thinks: str = ""
) -> Session:
    """A session whose target wants to say `said` after the rendered prompt of "hi", and then ends."""
    prompt = chat_prompt(made, HI)
    target = Speaker([*made.encode(said, special=False), END], len(prompt.ids), vocab_size=SIZE)
    session = fake_session(target, folder=folder)
    session._pair = replace(session.pair, tokenizer=made)
    return session


def channels(events: Sequence[Event]) -> tuple[str, str]:
    spans = [span for step in steps(events) for span in step.spans]
    return (
        "".join(span.text for span in spans if span.channel == "thinking"),
        "".join(span.text for span in spans if span.channel == "answer"),
    )


def finished(events: Sequence[Event]) -> Finished:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1]


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("constraint", CONSTRAINTS)
@pytest.mark.parametrize("opens", [True, False], ids=["opened by the template", "opened by the model"])
def test_the_model_thinks_and_then_keeps_to_the_constraint(
    tags: str, constraint: str, opens: bool, tmp_path: Path
) -> None:
    rule, answer = CONSTRAINTS[constraint]
    _, begin, end = TAGS[tags]
    made = reasoning(tags, opens=opens)
    thought = ("" if opens else begin) + '\nhm {"a": no} <b>\n' + end
    session = session_of(made, thought + answer, tmp_path)
    events = list(session.generate("hi", constraint=rule))
    done = finished(events)
    assert (done.text, done.complete, done.reason) == (answer, True, "end")
    assert channels(events) == (thought, answer)
    assert not [event for event in events if isinstance(event, Notice)]


@pytest.mark.parametrize("tags", TAGS)
def test_an_answer_that_would_break_the_constraint_keeps_to_it(tags: str, tmp_path: Path) -> None:
    """The model wants prose, blanks and an end in the middle: only the thinking is free."""
    made = reasoning(tags)
    session = session_of(made, "first this" + TAGS[tags][2] + "\n\nSure, here it is", tmp_path)
    done = finished(list(session.generate("hi", constraint=Constraint("regex", "[0-9]{3}"), max_new_tokens=60)))
    assert len(done.text) == 3
    assert done.text.isdigit()
    assert done.complete


def test_thinking_may_not_end_the_answer(tmp_path: Path) -> None:
    """Nor is it closed by a tag that is only quoted in part."""
    rule, _ = CONSTRAINTS["regex"]
    session = session_of(reasoning("text"), "a </thin b", tmp_path)
    done = finished(list(session.generate("hi", constraint=rule, max_new_tokens=30)))
    assert (done.reason, done.text, done.complete) == ("length", "", False)


@pytest.mark.parametrize("constraint", [None, "schema"])
def test_thinking_that_never_closes_is_said(constraint: str | None, tmp_path: Path) -> None:
    session = session_of(reasoning("text"), "thinking on and on and on", tmp_path)
    rule = CONSTRAINTS[constraint][0] if constraint else None
    events = list(session.generate("hi", constraint=rule, max_new_tokens=8))
    done = finished(events)
    assert (done.text, done.complete) == ("", constraint is None)
    (notice,) = [event.text for event in events if isinstance(event, Notice)]
    assert notice.startswith("the model was still thinking")


def test_an_empty_match_does_not_complete_thinking(tmp_path: Path) -> None:
    session = session_of(reasoning("text"), "thinking on and on", tmp_path)
    events = list(session.generate("hi", constraint=Constraint("regex", "a*"), max_new_tokens=6))
    assert not finished(events).complete


@pytest.mark.parametrize("tags", TAGS)
@pytest.mark.parametrize("switch", [True, False], ids=["by the template", "without a switch"])
def test_without_thinking_the_constraint_starts_at_once(tags: str, switch: bool, tmp_path: Path) -> None:
    rule, answer = CONSTRAINTS["schema"]
    made = reasoning(tags, opens=False, switch=switch)
    prompt = chat_prompt(made, HI, think=False)
    assert prompt.thinking is not None
    assert prompt.thinking.off
    wanted = TAGS[tags][1] + "hm" + TAGS[tags][2] + answer if not switch else answer
    target = Speaker([*made.encode(wanted, special=False), END], len(prompt.ids), vocab_size=SIZE)
    session = fake_session(target, folder=tmp_path)
    session._pair = replace(session.pair, tokenizer=made)
    events = list(session.generate("hi", think=False, constraint=rule, max_new_tokens=60))
    thought, text = channels(events)
    assert thought == ""
    if switch:
        assert text == answer
    else:
        assert text.startswith('{"a": ')


SAMPLINGS = [SamplingChoice(), SamplingChoice(temperature=1.0, seed=3), SamplingChoice(repetition_penalty=1.2)]


@pytest.mark.parametrize("tags", TAGS)
def test_a_draft_changes_neither_thinking_nor_answer(tags: str, tmp_path: Path) -> None:
    made = reasoning(tags)
    rule = Constraint("json-schema", SCHEMA.replace('{"type": "integer"}', '{"enum": [7, "seven"]}'))
    close = made.encode(TAGS[tags][2], special=False)
    target = TableModel(SIZE, seed=3, spread=3.0)
    target.table[:, close[0]] += 9.0  # so that the thinking ends
    for last, token in itertools.pairwise(close):
        target.table[last, token] += 40.0
    draft = TableModel(SIZE, seed=3, spread=3.0, noise=1.0)
    drafters: list[Drafter | None] = [
        None,
        LookupDrafter(),
        ModelDrafter(draft, SIZE, 4096),
        HybridDrafter(LookupDrafter(), ModelDrafter(draft, SIZE, 4096)),
    ]
    for sampling in SAMPLINGS:
        seen: list[tuple[tuple[str, str], bool]] = []
        for drafter in drafters:
            session = fake_session(target, drafter, folder=tmp_path)
            session._pair = replace(session.pair, tokenizer=made)
            events = list(session.generate("hi", constraint=rule, sampling=sampling, max_new_tokens=200))
            seen.append((channels(events), finished(events).complete))
        assert all(each == seen[0] for each in seen)
        (thought, answer), complete = seen[0]
        assert complete
        assert thought.endswith(TAGS[tags][2])
        assert json.loads(answer)


def test_special_tags_are_told_from_the_answer_without_a_constraint(tmp_path: Path) -> None:
    session = session_of(reasoning("special", opens=False), "[THINK]hm[/THINK]\n\nYes.", tmp_path)
    events = list(session.generate("hi"))
    assert channels(events) == ("[THINK]hm[/THINK]\n\n", "Yes.")
    assert finished(events).text == "Yes."


def test_every_turn_of_a_chat_thinks_first(tmp_path: Path) -> None:
    rule, answer = CONSTRAINTS["schema"]
    made = reasoning("special", opens=False)
    session = session_of(made, f"[THINK]hm[/THINK]{answer}", tmp_path)
    conversation = Conversation(session, constraint=rule)
    events = list(conversation.say("hi"))
    assert channels(events) == ("[THINK]hm[/THINK]", answer)
    assert conversation.answer == answer
    assert conversation.messages[-1].content == f"[THINK]hm[/THINK]{answer}"


def test_raw_prompts_are_constrained_from_the_first_token(tmp_path: Path) -> None:
    rule, answer = CONSTRAINTS["schema"]
    made = reasoning("text")
    target = Speaker([*made.encode(answer, special=False), END], len(made.encode("hi", special=True)), vocab_size=SIZE)
    session = fake_session(target, folder=tmp_path)
    session._pair = replace(session.pair, tokenizer=made)
    assert finished(list(session.generate("hi", raw=True, constraint=rule))).text == answer


@pytest.mark.parametrize(
    ("stop", "shown"),
    [
        (["<|start|>"], "one two"),
        (["two<|start|>th"], "one "),
        (["<|start|>never"], "one twothree"),
        (["<|end|>"], "one twothree"),
        (["three"], "one two"),
        (["twothree"], "one "),
    ],
)
def test_a_stop_string_may_be_a_special_token(stop: list[str], shown: str, tmp_path: Path) -> None:
    made = tokenizer()
    session = session_of(made, "one two<|start|>three", tmp_path)
    done = finished(list(session.generate("hi", stop=stop)))
    assert done.text == shown
    assert done.reason == ("stop" if shown != "one twothree" else "end")


def test_a_failure_is_still_a_failure(tmp_path: Path) -> None:
    session = session_of(reasoning("text"), "x", tmp_path)
    (failed,) = session.generate("hi", constraint=Constraint("regex", "(a"))
    assert isinstance(failed, Failed)


@pytest.mark.parametrize("stream", [False, True])
def test_the_api_answers_by_the_schema_after_the_thinking(stream: bool, tmp_path: Path) -> None:
    made = reasoning("special")
    session = session_of(made, '\nhm {"a": no}[/THINK]{"a": 12}', tmp_path)
    schema = {"name": "a", "schema": json.loads(SCHEMA)}
    asked: dict[str, Any] = {
        "model": "fake",
        "messages": [{"role": "user", "content": "hi"}],
        "response_format": {"type": "json_schema", "json_schema": schema},
    }
    with running(session, tmp_path) as server, server.openai() as client:
        if stream:
            chunks = list(client.chat.completions.create(**asked, stream=True))
            content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            content = client.chat.completions.create(**asked).choices[0].message.content or ""
    assert content == '{"a": 12}'
