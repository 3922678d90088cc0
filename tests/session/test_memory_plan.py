"""The memory of a pair: predicted, checked, and refused with alternatives that fit."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.checkpoint.checkpoint import Checkpoint, find
from specgen.checkpoint.gguf import remote as gguf_remote
from specgen.core.errors import OutOfMemory, PromptTooLong, UsageError
from specgen.core.events import Failed, Notice, Progress
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import Dtype, EngineOptions, ModelRef, Quant
from specgen.nn import device as devices
from specgen.nn.device import Placement
from specgen.nn.lean import model as decoder
from specgen.nn.memory import peak
from specgen.session import loading
from specgen.session import memory_plan as planning
from specgen.session.memory_plan import MemoryPlan, check_memory, plan_pair, what_fits
from specgen.session.session import Session
from tests.cli.command import invoke
from tests.fakes import END
from tests.gguf_files import write_gguf
from tests.hub_server import HubServer, serve_hub

hub = pytest.fixture(serve_hub)
CPU = torch.device("cpu")
FLOAT32 = EngineOptions(quant=Quant.NONE, dtype=Dtype.FLOAT32)


def checkpoint(folder: Path) -> Checkpoint:
    return follow(find(ModelRef(str(folder)), offline=True), lambda _: None)


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Set the free memory in bytes."""

    def say(count: int) -> None:
        monkeypatch.setattr(planning, "free_memory", lambda _: count)

    return say


@pytest.fixture
def stories() -> MemoryPlan:
    pair = [
        follow(find(ModelRef(f"bundled:stories/{name}"), offline=True), lambda _: None) for name in ("target", "draft")
    ]
    return plan_pair(pair[0], pair[1], FLOAT32, CPU)


def test_the_cache_that_is_foretold_is_the_one_that_is_made(checkpoints: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = checkpoints.target("llama")
    monkeypatch.setattr(decoder, "FIRST", 64)
    monkeypatch.setattr("specgen.nn.memory.FIRST", 64)
    options = EngineOptions(quant=Quant.NONE, dtype=Dtype.FLOAT32, ctx_size=130)
    foretold = plan_pair(checkpoint(folder), None, options, CPU).target.footprint.cache
    with Session(str(folder), "none", options) as session:
        list(session.open())
        model: Any = session.pair.target
        for length in (3, 70, 129):
            model.forward(Tokens([5] * length), 1)
        assert sum(cache.nbytes for cache in model._contexts[0].caches) == foretold == 2 * 2 * 2 * 8 * 192 * 4


def test_weights_are_those_of_every_matrix_in_the_dtype(stories: MemoryPlan) -> None:
    head = 4096 * 256
    assert stories.target.footprint.weights == pytest.approx(4 * 7_607_552, rel=0.01)
    assert stories.draft is not None
    bfloat16 = plan_pair(
        stories.target.checkpoint, None, EngineOptions(quant=Quant.NONE, dtype=Dtype.BFLOAT16), CPU
    ).target
    norms = 4 * 21 * 256  # stay in float32
    assert 2 * (bfloat16.footprint.weights - norms) == stories.target.footprint.weights - norms
    assert stories.target.footprint.loading in (0, 4 * head)
    assert stories.total > stories.without_draft.total > stories.target.footprint.weights


def test_the_context_is_the_one_asked_for_or_an_assumed_one(stories: MemoryPlan) -> None:
    assert (stories.context, stories.assumed) == (512, True)  # the model's own limit is below what is assumed
    asked = plan_pair(stories.target.checkpoint, None, EngineOptions(ctx_size=64), CPU)
    assert (asked.context, asked.assumed) == (64, False)
    with pytest.raises(UsageError, match="--ctx-size 513 is more than the target's 512"):
        plan_pair(stories.target.checkpoint, None, EngineOptions(ctx_size=513), CPU)


def test_models_of_transformers_are_counted_by_their_files(checkpoints: Any) -> None:
    folder = checkpoints.target("gpt2")
    plan = plan_pair(checkpoint(folder), None, FLOAT32, CPU)
    assert plan.target.footprint.weights == (folder / "model.safetensors").stat().st_size
    assert plan.target.footprint.cache == 2 * 3 * 32 * 256 * 4


def test_a_pair_that_fits_is_let_through(stories: MemoryPlan) -> None:
    assert check_memory(stories, FLOAT32) is None


def test_lookup_takes_the_place_of_a_draft_that_does_not_fit(stories: MemoryPlan, free: Any) -> None:
    free(stories.without_draft.total)
    with Session("stories", options=FLOAT32) as session:
        events = list(session.open())
        assert session.pair.drafter_name == "lookup"
    told = [event.text for event in events if isinstance(event, Notice)]
    assert len(told) == 1
    assert told[0].startswith("bundled:stories/draft does not fit beside bundled:stories/target (")
    assert told[0].endswith("lookup drafts instead")


def test_what_does_not_fit_is_refused_before_it_is_loaded(
    stories: MemoryPlan, free: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    free(stories.without_draft.total - 1_000_000)
    monkeypatch.setattr(loading, "fetch_weights", lambda *_, **__: pytest.fail("nothing may be fetched"))
    session = Session("stories", options=FLOAT32)
    with pytest.raises(
        OutOfMemory, match=r"takes \d+ MB of memory with a context of 512, and \d+ MB are free"
    ) as caught:
        list(session.open())
    assert "--dtype bfloat16" in caught.value.hint


def test_what_would_fit_does(stories: MemoryPlan, free: Any) -> None:
    alone = stories.without_draft
    half = peak([alone.target.footprint]) - alone.target.footprint.cache // 3
    free(half)
    tight = plan_pair(alone.target.checkpoint, None, FLOAT32, CPU)
    assert not tight.fits
    assert "--dtype bfloat16" in what_fits(tight, FLOAT32)
    free(1_000_000)
    assert what_fits(plan_pair(alone.target.checkpoint, None, FLOAT32, CPU), FLOAT32) == []


def test_a_shorter_context_is_offered(checkpoints: Any, free: Any) -> None:
    folder = checkpoints.make("long", "llama", max_position_embeddings=1 << 16)
    options = EngineOptions(quant=Quant.NONE, dtype=Dtype.BFLOAT16, ctx_size=1 << 16)
    whole = plan_pair(checkpoint(folder), None, options, CPU)
    free(whole.total - whole.target.footprint.cache // 3)
    assert what_fits(plan_pair(checkpoint(folder), None, options, CPU), options) == ["--ctx-size 32768"]


@pytest.mark.parametrize(("spread", "order"), [(False, ["target", "draft"]), (True, ["draft", "target"])])
def test_the_draft_is_loaded_before_a_target_that_takes_all_devices(
    spread: bool, order: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def place(*given: Any, **more: Any) -> Placement:
        return replace(devices.place(*given, **more), spread=spread)

    monkeypatch.setattr(planning, "place", place)
    with Session("stories", options=FLOAT32) as session:
        told = [event.what for event in session.open() if isinstance(event, Progress) and event.done == 0]
        assert (session.pair.drafter_name, session.pair.draft_placement) == ("hybrid", Placement(CPU, torch.float32))
        assert session.pair.draft is not session.pair.target
    assert list(dict.fromkeys(told)) == [f"loading bundled:stories/{name}" for name in order]


def test_the_command_shows_the_plan(stories: MemoryPlan) -> None:
    outcome = invoke("plan", "-m", "stories", "--quant", "none", "--dtype", "float32")
    assert (outcome.code, outcome.err) == (0, "")
    assert outcome.text.startswith("target    bundled:stories/target: 30 MB of weights, 10 MB of cache, float32\n")
    assert "context   512 tokens (assumed; --ctx-size plans for another)" in outcome.text
    assert outcome.text.endswith("verdict   fits\n")


@pytest.mark.parametrize(
    ("options", "drafter"), [([], "hybrid"), (["--no-lookup"], "model"), (["-d", "lookup"], "lookup")]
)
def test_the_plan_names_the_drafter_as_a_run_does(options: list[str], drafter: str) -> None:
    assert json.loads(invoke("plan", "-m", "stories", "--json", *options).text)["drafter"] == drafter


def test_the_command_exits_with_8_where_nothing_fits(free: Any) -> None:
    free(1_000_000)
    outcome = invoke("plan", "-m", "stories")
    assert outcome.code == 8
    assert outcome.text.endswith("verdict   does not fit; no smaller setting fits either\n")


def test_a_prompt_that_is_too_long_is_refused_before_weights_are_downloaded(
    hub: HubServer, checkpoints: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("org/m", checkpoints.target("llama"))
    outcome = invoke("-m", "org/m", "-d", "none", "--raw", "fox " * 300)
    assert (outcome.code, outcome.out) == (9, b"")
    assert "the prompt has" in outcome.err
    assert invoke("-m", "org/m", "-d", "none", "--ctx-size", 1000, "hello").code == 2
    assert hub.asked(".safetensors") == []


@pytest.fixture
def gguf_pair(hub: HubServer, checkpoints: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> HubServer:
    """org/g has t.gguf and a draft for it, and foreign.gguf, whose tokens are others."""
    monkeypatch.setattr(gguf_remote, "_FIRST_BYTES", 1 << 12)
    folder = tmp_path / "g"
    folder.mkdir()
    large = checkpoints.make("large", "llama", num_hidden_layers=8, hidden_size=64, intermediate_size=256)
    write_gguf(folder / "t.gguf", large, tokenizer=True)
    write_gguf(folder / "d.gguf", checkpoints.target("llama"), tokenizer=True)
    content = (folder / "d.gguf").read_bytes()
    (folder / "foreign.gguf").write_bytes(content.replace(END.encode(), b"?" * len(END)))
    (folder / "broken.gguf").write_bytes(content.replace(b"the", b"eht"))
    hub.publish("org/g", folder)
    return hub


def bytes_asked(hub: HubServer) -> int:
    """The requested bytes of GGUF files, summed over all requests."""
    ranges = [request.range for request in hub.asked("cdn", "GET")]
    assert all(ranges), "a whole file was asked for"
    parts = [(text or "").removeprefix("bytes=").split("-") for text in ranges]
    return sum(int(last) + 1 - int(first) for first, last in parts)


def test_a_gguf_file_that_does_not_fit_is_refused_by_its_header(gguf_pair: HubServer, free: Any) -> None:
    free(1_000_000)
    outcome = invoke("-m", "org/g:t.gguf", "-d", "org/g:d.gguf", "--raw", "hello")
    assert (outcome.code, outcome.out) == (8, b"")
    assert outcome.err.startswith(
        "specgen: org/g:t.gguf takes 36 MB of memory with a context of 256, and 1 MB are free;"
    )
    size = next(iter(gguf_pair.repositories["org/g"].folders.values())).joinpath("t.gguf").stat().st_size
    assert 0 < bytes_asked(gguf_pair) < size / 10
    assert not list(gguf_pair.cache.rglob("*.incomplete"))
    assert not list(gguf_pair.cache.glob("models--org--g/snapshots/*/*.gguf"))


def test_gguf_files_are_planned_and_compared_by_their_headers(gguf_pair: HubServer) -> None:
    figures = json.loads(invoke("plan", "-m", "org/g:t.gguf", "-d", "org/g:d.gguf", "--json").text)
    assert all(model["download"] > 100_000 for model in figures["models"])
    outcome = invoke("-m", "org/g:t.gguf", "-d", "org/g:broken.gguf", "--raw", "hello")
    assert outcome.err.startswith("specgen: org/g:broken.gguf cannot be loaded: Error while initializing BPE: Token")
    assert bytes_asked(gguf_pair) < 100_000
    outcome = invoke("-m", "org/g:t.gguf", "-d", "org/g:foreign.gguf", "--raw", "hello")
    assert outcome.code == 0
    assert "foreign.gguf has another vocabulary: it drafts the " in outcome.err


def test_a_gguf_pair_of_the_hub_runs(gguf_pair: HubServer) -> None:
    options = ("--raw", "-n", 4, "--temp", 0, "--quant", "none", "--dtype", "float32", "hello")
    outcome = invoke("-m", "org/g:t.gguf", "-d", "org/g:d.gguf", *options)
    assert outcome.code == 0
    folder = next(iter(gguf_pair.repositories["org/g"].folders.values()))
    assert outcome.out == invoke("-m", folder / "t.gguf", "-d", "none", *options).out != b""


def test_loading_ends_as_soon_as_the_prompt_is_known_to_be_too_long(monkeypatch: pytest.MonkeyPatch) -> None:
    finished = threading.Event()
    compared = loading.compare_tokenizers
    monkeypatch.setattr(
        loading, "compare_tokenizers", lambda *given, **named: (compared(*given, **named), finished.set())[0]
    )

    def slow(*_: object, **__: object) -> Iterator[Progress]:
        yield Progress("loading", 0, 10)
        finished.wait(10)
        for _ in range(1_000_000):  # until somebody stops it
            yield Progress("loading", 1, 10)

    monkeypatch.setattr(loading, "_load", slow)
    events = list(Session("stories", "none", FLOAT32).generate("word " * 600, raw=True))
    failed = events[-1]
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, PromptTooLong)
