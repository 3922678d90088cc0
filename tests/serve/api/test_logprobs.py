"""Log-probabilities through the real openai client, against a plain forward pass of transformers."""

from pathlib import Path

import pytest
import torch
from openai import OpenAI
from transformers import AutoModelForCausalLM

import specgen
from specgen.core.events import Logprobs, Step
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingChoice
from specgen.session.session import Session
from tests.fakes import CHAT_TEMPLATE, Speaker, encode, fake_session
from tests.serve.running import running

TARGET = Path(specgen.__file__).parent / "checkpoint" / "bundled" / "stories" / "target"
PROMPT = "Once upon a time"
CHAT = {"model": "fake", "messages": [{"role": "user", "content": "hello"}]}
# Drafts always, so that there are drafted tokens among those that are scored.
OPTIONS = EngineOptions(num_draft_tokens=4)


def expected(session: Session, prompt: str, said: list[int]) -> torch.Tensor:
    """float32 [said, vocab]: the log-probabilities at every token that was said."""
    model = AutoModelForCausalLM.from_pretrained(TARGET, dtype=torch.float32)
    before = session.pair.tokenizer.encode(prompt, special=True)
    with torch.inference_mode():
        logits = model(torch.tensor([[*before, *said]])).logits[0]
    return torch.log_softmax(logits[len(before) - 1 : -1], -1)


def steps(session: Session, logprobs: int | None) -> list[Step]:
    context = Tokens(session.pair.tokenizer.encode(PROMPT, special=True))
    events = session.run(context, SamplingChoice(temperature=0.5, seed=5), max_new_tokens=40, logprobs=logprobs)
    return [event for event in events if isinstance(event, Step)]


def test_every_token_has_the_targets_own_whoever_drafted_it(session: Session) -> None:
    drafted = steps(session, 3)
    assert sum(step.accepted for step in drafted) > 3
    tokens = [token for step in drafted for token in step.tokens]
    scored = [each for step in drafted for each in step.logprobs]
    assert [each.chosen.token for each in scored] == tokens
    rows = expected(session, PROMPT, tokens)
    for row, each in zip(rows, scored, strict=True):
        assert each.chosen.logprob == pytest.approx(row[each.chosen.token].item(), abs=1e-3)
        values, ids = row.topk(3)
        assert [other.token for other in each.top] == ids.tolist()
        assert [other.logprob for other in each.top] == pytest.approx(values.tolist(), abs=1e-3)
    with Session("stories", "none", OPTIONS) as plain:
        list(plain.open())
        assert [each for step in steps(plain, 3) for each in step.logprobs] == scored


def test_nothing_is_scored_where_nobody_asks(session: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.engine.decode.log_probabilities", None)
    assert all(step.logprobs == () for step in steps(session, None))


def test_completions(client: OpenAI, session: Session) -> None:
    asked = {"model": "fake", "prompt": PROMPT, "seed": 3, "temperature": 1.2, "max_tokens": 30}
    without = client.completions.create(**asked)
    assert without.choices[0].logprobs is None
    choice = client.completions.create(**asked, logprobs=2).choices[0]
    assert choice.text == without.choices[0].text
    said = choice.logprobs
    assert said
    assert said.tokens
    assert said.text_offset
    assert said.top_logprobs
    assert "".join(said.tokens) == choice.text
    for token, offset in zip(said.tokens, said.text_offset, strict=True):
        assert choice.text[offset:].startswith(token)
    ids = [session.pair.tokenizer.token_id(token.replace(" ", "\u0120")) for token in said.tokens]
    assert None not in ids
    rows = expected(session, PROMPT, ids)  # type: ignore[arg-type]
    chosen = [row[token].item() for row, token in zip(rows, ids, strict=True)]
    assert said.token_logprobs == pytest.approx(chosen, abs=1e-3)
    for row, token, likely in zip(rows, said.tokens, said.top_logprobs, strict=True):
        assert token in likely
        assert max(likely.values()) == pytest.approx(row.max().item(), abs=1e-3)
        assert len(likely) in (2, 3)
    bare = client.completions.create(**asked, logprobs=0).choices[0].logprobs
    assert bare
    assert bare.token_logprobs == said.token_logprobs
    assert set(bare.top_logprobs or ()) == {None}
    chunks = list(client.completions.create(**asked, logprobs=2, stream=True))
    streamed = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    for field in ("tokens", "token_logprobs", "top_logprobs", "text_offset"):
        assert [each for part in streamed for each in getattr(part, field)] == getattr(said, field)


def test_chats(client: OpenAI, session: Session) -> None:
    asked = {"model": "fake", "messages": [{"role": "user", "content": PROMPT}], "temperature": 0, "max_tokens": 24}
    whole = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2).choices[0]
    assert whole.logprobs
    content = whole.logprobs.content or []
    assert b"".join(bytes(each.bytes or []) for each in content).decode() == whole.message.content
    assert len(content) == 24
    for each in content:
        # Greedy: the token is the likeliest.
        assert each.top_logprobs[0].token == each.token
        assert each.top_logprobs[0].logprob == each.logprob > each.top_logprobs[1].logprob
    chunks = client.chat.completions.create(**asked, logprobs=True, top_logprobs=2, stream=True)
    parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
    assert [each for part in parts for each in part.content or []] == content
    bare = client.chat.completions.create(**asked, logprobs=True).choices[0].logprobs
    assert bare
    assert [each.top_logprobs for each in bare.content or []] == [[]] * 24


def saying(text: str, folder: Path) -> Session:
    """A session over a model that says `text`, then the end token."""
    model = Speaker([*encode(text), 0], len(encode("<|start|>user\nhello<|end|>\n<|start|>assistant\n")))
    return fake_session(model, folder=folder, k=0, chat_template=f"{CHAT_TEMPLATE}{{# </think> #}}")


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_only_tokens_of_the_text_are_told(tmp_path: Path, stream: bool) -> None:
    """Neither the end token, nor a stop string, nor what was thought; parts of a character one by one."""
    for text, stop, answer in (
        ("hello", None, "hello"),
        ("hello world, over", "world", "hello "),
        ("<think>the answer</think>\n\nhello", None, "hello"),
        ("go \U0001f98a now", None, "go \U0001f98a now"),
    ):
        with running(saying(text, tmp_path), tmp_path) as server, server.openai() as client:
            if stream:
                chunks = list(client.chat.completions.create(**CHAT, logprobs=True, stop=stop, stream=True))
                said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
                parts = [chunk.choices[0].logprobs for chunk in chunks if chunk.choices[0].logprobs]
                content = [each for part in parts for each in part.content or []]
            else:
                choice = client.chat.completions.create(**CHAT, logprobs=True, stop=stop).choices[0]
                assert choice.logprobs
                said, content = choice.message.content or "", choice.logprobs.content or []
            assert said == answer
            assert b"".join(bytes(each.bytes or []) for each in content).decode() == answer
            assert len(content) == len(encode(answer))
            assert all(-1e-3 < each.logprob <= 0 for each in content)


def test_parts_of_characters_are_escaped(tmp_path: Path) -> None:
    asked = {"model": "fake", "prompt": "hello", "logprobs": 1, "max_tokens": 8}
    session = fake_session(Speaker([*encode("\U0001f98a"), 0], len(encode("hello"))), folder=tmp_path, k=0)
    with running(session, tmp_path) as server, server.openai() as client:
        choice = client.completions.create(**asked).choices[0]  # type: ignore[call-overload]
    assert choice.text == "\U0001f98a"
    parts = [f"bytes:\\x{byte:02x}" for byte in "\U0001f98a".encode()]
    assert choice.logprobs.tokens == parts
    assert choice.logprobs.text_offset == [0, 0, 0, 0]
    assert [list(top) for top in choice.logprobs.top_logprobs] == [[part] for part in parts]


def test_each_says_where_its_text_begins(session: Session) -> None:
    text = ""
    scored: list[Logprobs] = []
    for step in steps(session, 0):
        text += step.text
        scored += step.logprobs
    assert len(scored) == 40
    for each in scored:
        assert text.encode()[len(text[: each.at].encode()) :].startswith(bytes(each.chosen.utf8))
