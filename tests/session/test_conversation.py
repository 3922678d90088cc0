"""Conversation: which tokens are fed again, which turns are kept, and the ids that the model reads."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen import Session
from specgen.core.errors import OutOfMemory, PromptTooLong, SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice
from specgen.core.types import EngineOptions, Message, SamplingChoice
from specgen.session.conversation import Conversation
from tests.fakes import CHAT_TEMPLATE, END, VOCAB, Scripted, _Fake, encode, fake_session, steps, tokens_of

ASSISTANT = "<|start|>assistant\n"


class Answers(_Fake):
    """A model that answers the n-th turn with the n-th script."""

    def __init__(self, *scripts: Sequence[int], turn: Callable[[list[int]], int] | None = None) -> None:
        super().__init__(VOCAB)
        self.scripts = [list(script) for script in scripts]
        self._mark = encode(ASSISTANT)
        self.contexts: list[list[int]] = []

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        mark, known = self._mark, list(ids)
        starts = [at for at in range(len(known) - len(mark) + 1) if known[at : at + len(mark)] == mark]
        script = self.scripts[len(starts) - 1]
        said = len(known) - starts[-1] - len(mark)
        logits = torch.zeros(VOCAB)
        logits[script[said] if said < len(script) else 0] = 9.0
        return logits

    def forward(self, tokens: Any, last: int) -> Any:
        self.contexts.append(tokens.ids())
        return super().forward(tokens, last)


def ended(text: str) -> list[int]:
    return [*encode(text), 0]


def answered(events: Sequence[Event]) -> str:
    assert isinstance(events[-1], Finished), events[-1]
    return events[-1].text


def turns(*pairs: tuple[str, str]) -> list[Message]:
    return [message for user, said in pairs for message in (Message("user", user), Message("assistant", said))]


def test_three_turns_feed_each_token_once(tmp_path: Path) -> None:
    target = Answers(ended("hello world"), ended("the fox"), ended("the dog"))
    conversation = Conversation(fake_session(target, folder=tmp_path), system="be kind")
    fed: list[int] = []
    new: list[int] = []
    known = 0
    for user in ("hi", "who jumps?", "who sleeps?"):
        before = target.fed
        events = list(conversation.say(user))
        fed.append(target.fed - before)
        total = len(target.contexts[-1])
        new.append(total - known)
        known = total
        assert answered(events)
    # Of the context so far, only the end token, which nobody has fed yet, is no part of the cache.
    assert fed == new
    assert [message.content for message in conversation.messages] == [
        "be kind", "hi", "hello world", "who jumps?", "the fox", "who sleeps?", "the dog",
    ]  # fmt: skip


@pytest.mark.parametrize("architecture", ["llama", "mistral", "hybrid"])
@pytest.mark.usefixtures("through_transformers")
def test_three_turns_of_a_real_model_reuse_the_cache(checkpoints: Any, architecture: str) -> None:
    session = Session(str(checkpoints.target(architecture)), "none", EngineOptions(threads=1))
    conversation = Conversation(session, max_new_tokens=8)
    for _ in session.open():
        pass
    model = session.pair.target._model  # type: ignore[attr-defined]
    fed: list[int] = []
    model.register_forward_pre_hook(
        lambda _, arguments, named: fed.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    prompts = ("hello there", "the quick brown fox jumps over the lazy dog", "and then?")
    for turn, user in enumerate(prompts):
        fed.clear()
        list(conversation.say(user))
        # The turn's own text and the template around it; of the answer before, only its last token.
        own = len(encode(f"<|end|>\n<|start|>user\n{user}<|end|>\n{ASSISTANT}"))
        assert fed[0] <= own + 1, turn
        assert fed[1:] == [1] * 7


def test_a_conversation_reads_what_the_template_writes(tmp_path: Path) -> None:
    """If the generated ids are those of the encoded text, the context is the encoded template."""
    target = Answers(ended("hello world"), ended("the fox"))
    conversation = Conversation(fake_session(target, folder=tmp_path), system="be kind")
    list(conversation.say("hi"))
    target.contexts.clear()
    list(conversation.say("who?"))
    assert target.contexts[0] == encode(
        f"<|start|>system\nbe kind<|end|>\n<|start|>user\nhi<|end|>\n{ASSISTANT}hello world<|end|>\n"
        f"<|start|>user\nwho?<|end|>\n{ASSISTANT}"
    )


def test_generated_ids_are_kept(tmp_path: Path) -> None:
    """The letters of a word one by one: encoding the word gives other ids."""
    letters = [encode(letter)[0] for letter in "hello"]
    assert encode("hello") != letters
    target = Answers([*letters, 0], ended("the fox"))
    conversation = Conversation(fake_session(target, folder=tmp_path))
    list(conversation.say("hi"))
    target.contexts.clear()
    list(conversation.say("who?"))
    start = len(encode(f"<|start|>user\nhi<|end|>\n{ASSISTANT}"))
    assert target.contexts[0][start : start + 6] == [*letters, 0]
    assert target.contexts[0].count(0) == 3  # the end token is said once, not by the template too


@pytest.mark.parametrize("how", ["stop", "close"])
def test_an_interrupted_answer_is_kept(tmp_path: Path, how: str) -> None:
    target = Answers(ended("the quick brown fox jumps"), ended("the dog"))
    session = fake_session(target, folder=tmp_path)
    conversation = Conversation(session)
    stream = conversation.say("hi")
    seen: list[Event] = []
    for event in stream:
        seen.append(event)
        if len(steps(seen)) == 3:
            if how == "close":
                stream.close()  # type: ignore[attr-defined]
                break
            session.stop()
    said = "".join(step.text for step in steps(seen))
    assert conversation.messages == turns(("hi", said))
    assert "the quick brown fox jumps".startswith(said)
    assert 0 < len(said) < 25
    target.contexts.clear()
    list(conversation.say("go on"))
    assert target.contexts[0] == encode(
        f"<|start|>user\nhi<|end|>\n{ASSISTANT}{said}<|end|>\n<|start|>user\ngo on<|end|>\n{ASSISTANT}"
    )


def test_a_stop_string_is_no_part_of_the_history(tmp_path: Path) -> None:
    """The user did not see it, so the next context contains neither its text nor its tokens."""
    target = Answers(ended("the fox. user: me"), ended("the dog"))
    conversation = Conversation(fake_session(target, folder=tmp_path), stop=["user:"])
    assert answered(list(conversation.say("hi"))) == "the fox. "
    target.contexts.clear()
    list(conversation.say("go on"))
    assert target.contexts[0] == encode(
        f"<|start|>user\nhi<|end|>\n{ASSISTANT}the fox. <|end|>\n<|start|>user\ngo on<|end|>\n{ASSISTANT}"
    )


def test_text_that_was_held_when_the_reader_left_is_no_part_of_the_history(tmp_path: Path) -> None:
    target = Answers([*encode("fox"), *encode("😀"), 0], ended("the dog"))
    conversation = Conversation(fake_session(target, folder=tmp_path))
    stream = conversation.say("hi")
    for event in stream:
        if len(tokens_of([event])) and not "".join(step.text for step in steps([event])):
            break
    stream.close()  # type: ignore[attr-defined]
    said = conversation.messages[-1].content
    assert "\ufffd" not in said
    target.contexts.clear()
    list(conversation.say("go on"))
    assert target.contexts[0] == encode(
        f"<|start|>user\nhi<|end|>\n{ASSISTANT}{said}<|end|>\n<|start|>user\ngo on<|end|>\n{ASSISTANT}"
    )


def test_the_newline_after_an_answer_is_not_taken_for_its_end(tmp_path: Path) -> None:
    """An answer cut short by the limit may end in the very token that the template writes after it."""
    template = CHAT_TEMPLATE.replace("<|end|>", "")
    newline = encode("\n")
    target = Answers([*encode("fox"), *newline, *encode("dog")], ended("the dog"))
    session = fake_session(target, folder=tmp_path, chat_template=template)
    conversation = Conversation(session, max_new_tokens=len(encode("fox")) + 1)
    assert answered(list(conversation.say("hi"))) == "fox\n"
    target.contexts.clear()
    list(conversation.say("go on"))
    assert session.pair.tokenizer.decode(target.contexts[0]) == "user\nhi\nassistant\nfox\n\nuser\ngo on\nassistant\n"


def test_a_turn_that_is_too_long_leaves_no_trace(tmp_path: Path) -> None:
    target = Answers(ended("hello"), ended("the fox"))
    conversation = Conversation(fake_session(target, folder=tmp_path, context_length=100))
    list(conversation.say("hi"))
    before, finished, started = list(conversation.messages), conversation.finished, conversation.started
    events = list(conversation.say("the fox " * 100))
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, PromptTooLong)
    assert (conversation.messages, conversation.finished, conversation.started) == (before, finished, started)
    assert answered(list(conversation.say("who?"))) == "the fox"
    assert END not in "".join(message.content for message in conversation.messages)


def test_a_turn_that_fails_in_the_middle_leaves_no_trace(tmp_path: Path) -> None:
    target = Answers(ended("hello"), ended("the quick brown fox"))
    session = fake_session(target, folder=tmp_path, k=0)
    conversation = Conversation(session)
    list(conversation.say("hi"))
    before = list(conversation.messages)
    row, calls = target.row, 0

    def fail(ids: Sequence[int]) -> torch.Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise MemoryError
        return row(ids)

    target.row = fail  # type: ignore[method-assign]
    events = list(conversation.say("who?"))
    target.row = row  # type: ignore[method-assign]
    assert isinstance(events[-1], Failed)
    assert isinstance(events[-1].error, OutOfMemory)
    assert conversation.messages == before
    assert answered(list(conversation.say("who?"))) == "the quick brown fox"
    assert conversation.messages == [*before, *turns(("who?", "the quick brown fox"))]


STRIPPING = CHAT_TEMPLATE.replace("{{ message.content }}", "{{ message.content | trim }}")
FORGETFUL = (
    "{% for message in messages %}<|start|>{{ message.role }}\n"
    "{{ message.content if loop.last or message.role == 'user' else message.content.split('.')[-1] }}<|end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)


@pytest.mark.parametrize("template", [STRIPPING, FORGETFUL])
def test_a_template_that_rewrites_history_is_followed(tmp_path: Path, template: str) -> None:
    """Some templates strip an answer, or remove its thinking."""
    target = Answers(ended("  let me think. the fox "), ended(" well. the dog  "), ended("so"))
    session = fake_session(target, folder=tmp_path, chat_template=template)
    conversation = Conversation(session)
    list(conversation.say("one"))
    list(conversation.say("two"))
    for user in ("three", "four"):
        target.contexts.clear()
        before = target.fed
        list(conversation.say(user))
        from specgen.session.prompt import chat_prompt

        upto = next(at for at in range(len(conversation.messages)) if conversation.messages[at].content == user) + 1
        prompt = chat_prompt(session.pair.tokenizer, conversation.messages[:upto])
        assert target.contexts[0] == list(prompt.ids)
        assert target.fed - before < len(prompt.ids), "what stands before the change is not fed again"
        target.scripts.append(ended("so"))


def test_a_model_without_a_chat_template_continues_as_plain_text(tmp_path: Path) -> None:
    target = Answers(ended("jumps"), ended("sleeps"))
    target._mark = encode("?")
    session = fake_session(target, folder=tmp_path, chat_template=None)
    conversation = Conversation(session, system="animals")
    events = list(conversation.say("the fox?"))
    assert [event.text for event in events if isinstance(event, Notice)] == [
        "this model has no chat template: it continues the conversation as plain text"
    ]
    assert target.contexts[0] == encode("animals\n\nthe fox?")
    said = target.contexts[-1] + [0]
    target.contexts.clear()
    events = list(conversation.say(" and the dog?"))
    assert not any(isinstance(event, Notice) for event in events)
    assert target.contexts[0] == said + encode(" and the dog?")


def test_clear_keeps_only_the_system_prompt(tmp_path: Path) -> None:
    target = Answers(ended("hello"), ended("the fox"))
    conversation = Conversation(fake_session(target, folder=tmp_path), system="be kind")
    list(conversation.say("hi"))
    list(conversation.say("who?"))
    conversation.clear()
    assert conversation.messages == [Message("system", "be kind")]
    assert conversation.finished is None
    target.contexts.clear()
    assert answered(list(conversation.say("hi"))) == "hello"
    assert target.contexts[0] == encode(f"<|start|>system\nbe kind<|end|>\n<|start|>user\nhi<|end|>\n{ASSISTANT}")


def test_the_options_hold_for_every_turn(tmp_path: Path) -> None:
    target = Answers(encode("the quick brown fox"), encode("the lazy dog sleeps"))
    conversation = Conversation(
        fake_session(target, folder=tmp_path), max_new_tokens=2, sampling=SamplingChoice(seed=3)
    )
    for user in ("hi", "who?"):
        events = list(conversation.say(user))
        assert len(tokens_of(events)) == 2
        assert conversation.started is not None
        assert conversation.started.sampling.seed == 3


def test_a_drafted_conversation_is_the_plain_one(checkpoints: Any) -> None:
    """Three turns with every drafter. The lookup drafter and the draft's cache survive between turns."""
    said = []
    for draft in ("none", "lookup", str(checkpoints.draft("mistral"))):
        session = Session(str(checkpoints.target("mistral")), draft, EngineOptions(threads=1))
        conversation = Conversation(session, max_new_tokens=12)
        for user in ("hello there", "the quick brown fox jumps", "and then?"):
            list(conversation.say(user))
        said.append(conversation.messages)
    assert said[0] == said[1] == said[2]


def test_drafters_are_told_of_turns_in_order(tmp_path: Path) -> None:
    """A drafter that reads the context sees the same ids as the target."""
    seen: list[list[int]] = []
    target = Answers(ended("hello"), ended("the fox"))
    drafter = Scripted(lambda ids: seen.append(ids) or [])  # type: ignore[func-returns-value]
    conversation = Conversation(fake_session(target, drafter, folder=tmp_path))
    list(conversation.say("hi"))
    list(conversation.say("who?"))
    assert seen == target.contexts


def test_undo_and_again_feed_only_what_changes(tmp_path: Path) -> None:
    letters = [encode(letter)[0] for letter in "hello"]
    target = Answers([*letters, 0], ended("the fox"), ended("the dog"))
    conversation = Conversation(fake_session(target, folder=tmp_path))
    list(conversation.say("hi"))
    list(conversation.say("who?"))
    whole = list(target.contexts[-1])
    before = target.fed
    assert answered(list(conversation.again("who?"))) == "the fox"
    # The last token of the prompt is fed again, since its logits are gone, and then the answer.
    assert target.fed - before == len(ended("the fox"))
    assert target.contexts[-1] == whole
    assert conversation.undo() == "who?"
    assert conversation.messages == turns(("hi", "hello"))
    assert conversation.finished is None
    target.contexts.clear()
    before = target.fed
    assert answered(list(conversation.say("why?"))) == "the fox"
    new = len(encode(f"\n<|start|>user\nwhy?<|end|>\n{ASSISTANT}")) + len(ended("the fox")) - 1
    assert target.fed - before <= new
    assert [*letters, 0] == target.contexts[0][len(encode(f"<|start|>user\nhi<|end|>\n{ASSISTANT}")) :][:6]
    assert conversation.undo() == "why?"
    assert conversation.undo() == "hi"
    assert conversation.undo() is None
    assert conversation.messages == []


def test_a_turn_that_fails_anew_keeps_the_old_one(tmp_path: Path) -> None:
    target = Answers(ended("hello"))
    conversation = Conversation(fake_session(target, folder=tmp_path, context_length=100))
    list(conversation.say("hi"))
    assert isinstance(list(conversation.again("the fox " * 100))[-1], Failed)
    assert conversation.messages == turns(("hi", "hello"))


def test_the_oldest_turns_go_when_the_context_fills_up(tmp_path: Path) -> None:
    target = Answers(*(ended("the fox"),) * 9)
    conversation = Conversation(fake_session(target, folder=tmp_path, context_length=120), system="be kind")
    system = encode("<|start|>system\nbe kind<|end|>\n")
    notices: list[str] = []
    while not notices:
        target.contexts.clear()
        events = list(conversation.say(f"turn {len(conversation.messages)}"))
        assert answered(events) == "the fox"
        assert target.contexts[0][: len(system)] == system
        notices += [event.text for event in events if isinstance(event, Notice)]
    assert len(target.contexts[0]) <= 60
    assert len(notices) == 1
    assert "the context of 120 tokens is full" in notices[0]
    assert conversation.messages[0] == Message("system", "be kind")
    assert conversation.messages[1].role == "user"
    assert conversation.messages[1].content != "turn 1"
    assert conversation.messages[-1] == Message("assistant", "the fox")


class Letters(_Fake):
    """A model that repeats `a`."""

    def __init__(self) -> None:
        super().__init__(VOCAB)

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(encode("a")[0]), VOCAB).float()


@pytest.mark.parametrize("raw", [True, False])
def test_plain_text_that_fills_the_context_goes_on_without_its_beginning(tmp_path: Path, raw: bool) -> None:
    """One answer may fill the context. Then no whole turn can be dropped, and the text is cut."""
    template = CHAT_TEMPLATE if raw else None
    session = fake_session(Letters(), folder=tmp_path, context_length=100, chat_template=template)
    conversation = Conversation(session, raw=raw)
    earlier = turns(("the beginning", " 你好, the quick brown fox" * 40 + "!"))
    conversation.restore(earlier)
    events = list(conversation.say(" and"))
    notices = [event.text for event in events if isinstance(event, Notice)]
    assert notices[-1] == "the context of 100 tokens is full: the oldest text is forgotten"
    started = conversation.started
    assert started is not None
    assert started.raw
    read = "".join(message.content for message in started.messages)
    assert "".join(message.content for message in [*earlier, Message("user", " and")]).endswith(read)
    assert read.endswith("! and")
    assert 40 <= started.prompt_tokens <= 50
    assert [message.role for message in conversation.messages] == ["user", "assistant", "user", "assistant"]
    assert events[-1].reason == "context"  # type: ignore[union-attr]
    # And so on, as often as one likes.
    assert isinstance(list(conversation.say(""))[-1], Finished)
    assert isinstance(list(conversation.say("so"))[-1], Finished)


def test_a_message_that_is_too_long_by_itself_is_refused_whole(tmp_path: Path) -> None:
    session = fake_session(Letters(), folder=tmp_path, context_length=100, chat_template=None)
    conversation = Conversation(session)
    conversation.restore(turns(("the fox", "jumps")))
    (failed,) = (event for event in conversation.say("the quick dog " * 60) if isinstance(event, Failed))
    assert isinstance(failed.error, PromptTooLong)
    assert "--ctx-size" not in failed.error.hint
    assert conversation.messages == turns(("the fox", "jumps"))


def test_raw_text_has_no_template(tmp_path: Path) -> None:
    target = Letters()
    conversation = Conversation(fake_session(target, folder=tmp_path), raw=True, max_new_tokens=2)
    conversation.restore(turns(("the fox", " jumps")))
    events = list(conversation.say(" over"))
    assert not [event for event in events if isinstance(event, Notice)]
    assert target.calls[0][0] == len(encode("the fox jumps over"))
    assert conversation.messages[-1] == Message("assistant", "aa")


THINKING = (
    "{% for message in messages %}<|start|>{{ message.role }}\n"
    "{{ message.content.split('</think>')[-1].lstrip('\n') if message.role == 'assistant' else message.content }}"
    "<|end|>\n{% endfor %}{% if add_generation_prompt %}<|start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def test_thinking_is_stripped_and_only_the_change_is_fed_again(tmp_path: Path) -> None:
    thought = "<think>\nthe lazy dog sleeps over there and jumps over the fox\n</think>\n\n"
    letters = [encode(letter)[0] for letter in "hello"]
    target = Answers([*encode(thought), *letters, 0], ended("the fox"), ended("the dog"))
    session = fake_session(target, folder=tmp_path, chat_template=THINKING)
    conversation = Conversation(session)
    events = list(conversation.say("hi"))
    assert answered(events) == "hello"
    spans = [span for step in steps(events) for span in step.spans]
    assert "".join(span.text for span in spans if span.channel == "thinking") == thought
    assert conversation.messages[-1].content == f"{thought}hello"
    assert conversation.answer == "hello"
    before = target.fed
    target.contexts.clear()
    list(conversation.say("who?"))
    head = encode(f"<|start|>user\nhi<|end|>\n{ASSISTANT}")
    rest = encode(f"hello<|end|>\n<|start|>user\nwho?<|end|>\n{ASSISTANT}")
    assert target.contexts[0] == head + rest
    assert target.fed - before == len(rest) + len(ended("the fox")) - 1
    before = target.fed
    list(conversation.say("so?"))
    assert target.fed - before == len(encode(f"\n<|start|>user\nso?<|end|>\n{ASSISTANT}")) + len(ended("the dog"))


def test_a_template_is_told_not_to_think(tmp_path: Path) -> None:
    target = Answers(ended("hello"))
    target._mark = encode("<think>\n\n</think>\n\n")
    session = fake_session(target, folder=tmp_path, chat_template=THINKING)
    events = list(Conversation(session, think=False).say("hi"))
    assert answered(events) == "hello"
    assert not [event for event in events if isinstance(event, Notice)]
    assert session.pair.tokenizer.decode(target.contexts[0]).endswith("<think>\n\n</think>\n\n")


def test_a_template_without_a_switch_says_so_once(tmp_path: Path) -> None:
    conversation = Conversation(fake_session(Answers(ended("a"), ended("b")), folder=tmp_path), think=False)
    told = [[event.text for event in conversation.say("hi") if isinstance(event, Notice)] for _ in range(2)]
    assert told == [["this model's chat template cannot switch thinking on or off"], []]


def test_another_session_reads_the_conversation_anew(tmp_path: Path) -> None:
    conversation = Conversation(fake_session(Answers(ended("hello")), folder=tmp_path), system="be kind")
    list(conversation.say("hi"))
    other = Answers(ended("no"), ended("the dog"))
    conversation.move(fake_session(other, folder=tmp_path))
    assert answered(list(conversation.say("who?"))) == "the dog"
    assert other.contexts[0] == encode(
        f"<|start|>system\nbe kind<|end|>\n<|start|>user\nhi<|end|>\n{ASSISTANT}hello<|end|>\n"
        f"<|start|>user\nwho?<|end|>\n{ASSISTANT}"
    )


def test_without_speculation_nothing_is_drafted(tmp_path: Path) -> None:
    drafter = Scripted(lambda ids: [1])
    session = fake_session(Answers(ended("a"), ended("b")), drafter, folder=tmp_path)
    conversation = Conversation(session)
    session.speculating = False
    events = list(conversation.say("hi"))
    assert not drafter.proposals
    assert conversation.started is not None
    assert conversation.started.drafter == "none"
    assert answered(events) == "a"
    session.speculating = True
    list(conversation.say("hi"))
    assert drafter.proposals


def test_a_draft_is_changed_and_the_text_is_not(checkpoints: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    session = Session(str(checkpoints.target("llama")), "none", EngineOptions(threads=1))
    conversation = Conversation(session, max_new_tokens=8)
    plain = answered(list(conversation.say("hello")))
    target = session.pair.target
    list(session.change_draft(str(checkpoints.draft("llama"))))
    assert session.pair.target is target
    assert session.pair.drafter_name == "hybrid"
    assert answered(list(conversation.again("hello"))) == plain
    with pytest.raises(SpecgenError):
        list(session.change_draft("./no-such-model"))
    with monkeypatch.context() as patch:
        patch.setattr("specgen.session.memory_plan.free_memory", lambda _: 1000)
        with pytest.raises(OutOfMemory, match="of memory, and 1 kB are free"):
            list(session.change_draft(str(checkpoints.draft("llama"))))
    assert session.pair.drafter_name == "hybrid"
    list(session.change_draft("lookup"))
    assert session.pair.loaded_draft is None
    assert answered(list(conversation.again("hello"))) == plain
