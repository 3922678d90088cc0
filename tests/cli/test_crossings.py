"""Features crossed with each other: every pair of their values occurs in some case.

Each case is compared with plain decoding in this process: the text, what is thinking and what is the answer, the exit
code or status, and the row in the history.
"""

import contextlib
import itertools
import json
import re
import socket
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import transformers

from specgen.core.events import Finished, Step
from specgen.core.types import Constraint, EngineOptions, SamplingChoice
from specgen.history.store import History, location
from specgen.serve.background.client import BackgroundSession
from specgen.serve.background.endpoint import open_endpoint
from specgen.serve.server import Server
from specgen.serve.worker.pool import PairKey
from specgen.session import loading
from specgen.session.session import Session
from tests.checkpoints import reference
from tests.cli.command import invoke
from tests.cli.conftest import ALIKE
from tests.cli.markov import CLOSE, OPEN, TEMPLATES, make_checkpoint
from tests.fakes import END
from tests.serve.running import until

FEATURES: Mapping[str, tuple[str, ...]] = {
    "way": ("run", "chat", "map", "api", "api streamed"),
    "draft": ("none", "lookup", "model", "hybrid"),
    "sampling": ("greedy", "seeded", "penalties"),
    "constraint": ("none", "schema", "regex"),
    "thinking": tuple(TEMPLATES),
    "stop": ("none", "text"),
    "process": ("own", "background"),
    "runner": ("lean", "transformers"),
}
PROMPT = "say nrvyosx, then adgjbeh"  # lookup finds the beginnings of the answer and of the thinking here
NEW = 60
CONSTRAINTS = {
    "schema": Constraint(
        "json-schema",
        json.dumps(
            {
                "type": "object",
                "properties": {"yes": {"type": "boolean"}, "n": {"enum": ["one", "two"]}},
                "required": ["yes", "n"],
                "additionalProperties": False,
            }
        ),
    ),
    "regex": Constraint("regex", "[n-y]{4,9}!"),
}
SAMPLING = {
    "greedy": {"temperature": 0.0},
    "seeded": {"temperature": 0.8, "seed": 5},
    "penalties": {"temperature": 0.7, "seed": 3, "repetition_penalty": 1.2, "presence_penalty": 0.5},
}


def possible(case: Mapping[str, str]) -> bool:
    """OpenAI's API has no regex."""
    return not (case.get("way", "").startswith("api") and case.get("constraint") == "regex")


def pairwise(times: int) -> list[dict[str, str]]:
    """Cases in which every possible pair of values of two features occurs, `times` times, chosen greedily."""
    missing = Counter(
        {
            frozenset({(one, value), (other, another)}): times
            for one, other in itertools.combinations(FEATURES, 2)
            for value, another in itertools.product(FEATURES[one], FEATURES[other])
            if possible({one: value, other: another})
        }
    )
    cases: list[dict[str, str]] = []
    while missing:
        seed = dict(max(missing, key=lambda pair: (missing[pair], sorted(pair))))
        case = {name: seed[name] for name in FEATURES if name in seed}
        for name in (name for name in FEATURES if name not in case):
            candidates = filter(possible, (case | {name: value} for value in FEATURES[name]))
            case = max(candidates, key=lambda each: sum(missing[pair] for pair in _pairs(each)))
        case = {name: case[name] for name in FEATURES}
        missing -= Counter(_pairs(case))
        if case not in cases:
            cases.append(case)
    return cases


def _pairs(case: Mapping[str, str]) -> set[frozenset[tuple[str, str]]]:
    return {frozenset(pair) for pair in itertools.combinations(case.items(), 2)}


CASES = pairwise(2)


def test_every_possible_pair_of_values_occurs() -> None:
    met = set().union(*map(_pairs, CASES))
    for one, other in itertools.combinations(FEATURES, 2):
        for pair in itertools.product(FEATURES[one], FEATURES[other]):
            values = dict(zip((one, other), pair, strict=True))
            assert frozenset(values.items()) in met or not possible(values)
    assert len(CASES) < 48


@dataclass(frozen=True)
class Expected:
    """What plain decoding gives."""

    thinking: str
    answer: str
    reason: str
    complete: bool


@dataclass(frozen=True)
class Seen:
    """What a way shows. `thinking` is None where it shows none; `code` is an exit code or an HTTP status."""

    answer: str
    code: int
    thinking: str | None = None
    reason: str | None = None


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folders `RUNNER/THINKING/target` and `draft`; those below `transformers` run on transformers."""
    root = tmp_path_factory.mktemp("markov")
    for runner, thinking in itertools.product(FEATURES["runner"], TEMPLATES):
        for name in ("target", "draft"):
            make_checkpoint(root / runner / thinking.replace(" ", "-") / name, thinking, draft=name == "draft")
    lean = loading.read_checkpoint_architecture
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            loading,
            "read_checkpoint_architecture",
            lambda checkpoint: "a test wants it so" if "/transformers/" in str(checkpoint.path) else lean(checkpoint),
        )
        yield root


def plain(models: Path, case: Mapping[str, str], stop: tuple[str, ...]) -> Expected:
    """Plain decoding by the lean decoder, in this process."""
    target = models / "lean" / case["thinking"].replace(" ", "-") / "target"
    with Session(str(target), "none", EngineOptions()) as session:
        events = list(
            session.generate(
                PROMPT,
                sampling=SamplingChoice(**SAMPLING[case["sampling"]]),
                max_new_tokens=NEW,
                stop=stop,
                constraint=CONSTRAINTS.get(case["constraint"]),
            )
        )
    last = events[-1]
    assert isinstance(last, Finished), last
    spans = [span for event in events if isinstance(event, Step) for span in event.spans]
    thinking = "".join(span.text for span in spans if span.channel == "thinking")
    return Expected(thinking, last.text, last.reason, last.complete)


def check_oracle(case: Mapping[str, str], expected: Expected, whole: Expected, stop: tuple[str, ...]) -> None:
    """The rules that plain decoding itself must keep."""
    tags = OPEN in expected.answer or CLOSE in expected.answer
    assert not tags
    if case["thinking"] == "none":
        assert expected.thinking == ""
    else:
        assert expected.thinking.strip().endswith(CLOSE)
        assert expected.thinking.lstrip().startswith(OPEN) == (case["thinking"] == "by the model")
    if stop:
        assert expected.reason == "stop"
        assert expected.answer == whole.answer.partition(stop[0])[0]
    elif case["constraint"] == "schema":
        assert set(json.loads(expected.answer)) == {"yes", "n"}
    elif case["constraint"] == "regex":
        assert re.fullmatch(CONSTRAINTS["regex"].text, expected.answer)
    assert expected.complete == (case["constraint"] == "none" or not stop)


@contextlib.contextmanager
def serving(case: Mapping[str, str], names: list[str], folder: Path) -> Iterator[Path]:
    """A server in this process, of `specgen serve` or the background one; its socket."""
    own = case["process"] == "own"
    with open_endpoint(None, has_key=False) as place:
        options = EngineOptions(num_draft_tokens=3, lookup=case["draft"] != "model")
        named = PairKey(names[0], names[1], options) if own else None
        server = Server(place, named, background=not own, fingerprint=ALIKE)
        thread = threading.Thread(target=server.run)
        thread.start()
        try:
            assert place.path
            until(lambda: _listens(place.path))
            yield place.path
        finally:
            server.stop()
            thread.join(60)
            assert not thread.is_alive()


def _listens(path: Path | None) -> bool:
    with socket.socket(socket.AF_UNIX) as client, contextlib.suppress(OSError):
        client.connect(str(path))
        return True
    return False


def command(case: Mapping[str, str], names: list[str], stop: tuple[str, ...]) -> list[object]:
    """The options that run, chat and map share."""
    options: list[object] = ["-m", names[0], "-d", names[1], "-k", 3, "-n", NEW]
    options += ["--no-lookup"] if case["draft"] == "model" else []
    for name, value in SAMPLING[case["sampling"]].items():
        options += [f"--{name.replace('_', '-')}", value]
    for text in stop:
        options += ["--stop", text]
    if wanted := CONSTRAINTS.get(case["constraint"]):
        options += [f"--{wanted.kind}", wanted.text]
    return options


def ask_command(case: Mapping[str, str], names: list[str], stop: tuple[str, ...]) -> Seen:
    options = command(case, names, stop)
    if case["way"] == "run":
        outcome = invoke("run", *options, PROMPT)
        return Seen(outcome.text, outcome.code)
    outcome = invoke(case["way"], *options, stdin=f"{PROMPT}\n".encode())
    return Seen(outcome.text.removesuffix("\n"), outcome.code)


def ask_api(case: Mapping[str, str], names: list[str], stop: tuple[str, ...], path: Path) -> Seen:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": PROMPT}], "max_tokens": NEW, "model": names[0]}
    body |= SAMPLING[case["sampling"]] | ({"stop": list(stop)} if stop else {})
    if case["constraint"] == "schema":
        schema = json.loads(CONSTRAINTS["schema"].text)
        body["response_format"] = {"type": "json_schema", "json_schema": {"name": "it", "schema": schema}}
    streamed = case["way"] == "api streamed"
    transport = httpx2.HTTPTransport(uds=str(path))
    with httpx2.Client(transport=transport, base_url="http://localhost", timeout=60) as client:
        response = client.post("/v1/chat/completions", json=body | {"stream": streamed})
    if not streamed:
        assert response.status_code == 200, response.text
        (choice,) = response.json()["choices"]
        parts, reason = [choice["message"]], choice["finish_reason"]
    else:
        lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: ")]
        assert lines.pop() == "[DONE]"
        choices = [choice for line in lines for choice in json.loads(line)["choices"]]
        parts, reason = [choice["delta"] for choice in choices], choices[-1]["finish_reason"]
    texts = ("".join(part.get(key) or "" for part in parts) for key in ("content", "reasoning_content"))
    answer, thinking = texts
    return Seen(answer, response.status_code, thinking, reason)


def exit_code(case: Mapping[str, str], expected: Expected) -> int:
    if case["way"].startswith("api"):
        return 200
    return 0 if expected.complete else {"run": 13, "chat": 0, "map": 14}[case["way"]]


@pytest.mark.parametrize("thinking", TEMPLATES)
def test_plain_decoding_is_that_of_transformers(models: Path, thinking: str) -> None:
    folder = models / "lean" / thinking.replace(" ", "-") / "target"
    tokenizer: Any = transformers.AutoTokenizer.from_pretrained(folder)
    messages = [{"role": "user", "content": PROMPT}]
    ids = tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    made = reference(folder, ids, NEW)
    expected = plain(models, {"thinking": thinking, "sampling": "greedy", "constraint": "none"}, ())
    assert tokenizer.decode(made).removesuffix(END) == expected.thinking + expected.answer


@pytest.mark.parametrize("case", CASES, ids=["-".join(case.values()).replace(" ", "_") for case in CASES])
def test_features_do_not_disturb_each_other(
    case: dict[str, str], models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = plain(models, case, ())
    stop = (whole.answer[2:4],) if case["stop"] == "text" else ()
    expected = plain(models, case, stop) if stop else whole
    check_oracle(case, expected, whole, stop)

    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "data"))
    (tmp_path / "r").mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "r"))
    monkeypatch.setenv("SPECGEN_KEEP_ALIVE", "off" if case["process"] == "own" else "24h")
    monkeypatch.setattr("specgen.serve.background.launcher._patience", lambda: 60.0)
    monkeypatch.setattr("specgen.serve.background.client.Fingerprint.own", lambda: ALIKE)
    folder = models / case["runner"] / case["thinking"].replace(" ", "-")
    named = case["draft"] in ("none", "lookup")
    names = [str(folder / "target"), case["draft"] if named else str(folder / "draft")]
    is_api = case["way"].startswith("api")
    with contextlib.ExitStack() as stack:
        if is_api or case["process"] == "background":
            path = stack.enter_context(serving(case, names, tmp_path))
        if case["process"] == "background":
            monkeypatch.setattr(BackgroundSession, "_local_session", _refuse)
        if is_api and case["process"] == "background":
            assert invoke("run", *command(case, names, ()), "--no-log", PROMPT).code == 0
        seen = ask_api(case, names, stop, path) if is_api else ask_command(case, names, stop)

    shown = "" if case["way"] == "map" and not expected.complete else expected.answer
    assert (seen.answer, seen.code) == (shown, exit_code(case, expected))
    if is_api:
        assert (seen.thinking or "") in expected.thinking
        assert seen.reason == ("length" if expected.reason in ("length", "context") else "stop")
        assert not (tmp_path / "data" / "history.db").exists()
        return
    with History(location()) as history:
        (row,) = history.answers()
    assert (row.kind, row.prompt, row.output, row.reason) == (case["way"], PROMPT, expected.answer, expected.reason)
    assert (row.stats["drafted_tokens"] > 0) or case["draft"] in ("none", "lookup")


def _refuse(_: BackgroundSession) -> Any:
    raise AssertionError("the answer does not come from the background process")
