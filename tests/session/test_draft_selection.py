"""The choice of a draft, with a local hub of small checkpoints."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.cli import default_model as suggesting
from specgen.core.errors import DownloadFailed, OutOfMemory
from specgen.core.events import Notice
from specgen.core.types import Dtype, EngineOptions, Message, Quant
from specgen.history.store import History, location
from specgen.session import draft_selection as choosing
from specgen.session import memory_plan as planning
from specgen.session.loading import with_draft
from specgen.session.memory_plan import ModelPlan
from specgen.session.session import Session
from tests.cli.command import invoke
from tests.gguf_files import write_gguf
from tests.hub.pulling import small as small_files
from tests.hub_server import HubServer, serve_hub

hub = pytest.fixture(serve_hub)
FLOAT32 = EngineOptions(quant=Quant.NONE, dtype=Dtype.FLOAT32)
IN_FLOAT32 = ("--quant", "none", "--dtype", "float32")
TARGET = "fam/Tiny-7B-Instruct"
LAYERS: dict[str, Any] = {
    "family-7b": {"num_hidden_layers": 8},
    "family-1b": {"num_hidden_layers": 1, "noise": 0.05},
}
CURATED = "Qwen/Qwen2.5-Coder-1.5B-Instruct"
CURATED_DRAFT = "Qwen/Qwen2.5-Coder-0.5B-Instruct"


@pytest.fixture(scope="module")
def swapped(checkpoints: Any) -> Path:
    """A model with two tokens of the vocabulary swapped."""
    folder = Path(checkpoints.make("swapped", "llama", num_hidden_layers=1))
    file = folder / "tokenizer.json"
    tokenizer = json.loads(file.read_text())
    ids = tokenizer["model"]["vocab"]
    one, other = [token for token, index in ids.items() if index in (10, 11)]
    ids[one], ids[other] = 11, 10
    file.write_text(json.dumps(tokenizer))
    return folder


@pytest.fixture
def published(hub: HubServer, checkpoints: Any, swapped: Path) -> HubServer:
    """A target with a fitting draft and several unfit models."""
    large = checkpoints.make("family-7b", "llama", **LAYERS["family-7b"])
    small = checkpoints.make("family-1b", "llama", **LAYERS["family-1b"])
    hub.publish(TARGET, large)
    hub.publish("fam/Tiny-1B-Instruct", small)
    hub.publish("fam/Tiny-1B", small)  # not tuned like the target
    hub.publish("fam/Tiny-13B-Instruct", large)  # larger
    hub.publish("fam/Tiny-3B-Instruct", large)  # smaller by its name alone
    hub.publish("fam/Tiny-0.5B-Instruct", swapped)
    hub.publish("other/Tiny-1B-Instruct", small)
    hub.publish(CURATED, large)
    hub.publish(CURATED_DRAFT, small)
    return hub


def opened(target: str, **options: Any) -> tuple[str | None, list[str]]:
    """The draft that a session chooses, and its notices."""
    chosen = EngineOptions(quant=Quant.NONE, dtype=Dtype.FLOAT32, **options)
    with Session(target, options=chosen) as session:
        told = [event.text for event in session.open() if isinstance(event, Notice)]
        draft = session.pair.draft_checkpoint
        return (draft.ref.source if draft else None), told


def test_a_target_alone_finds_its_draft_on_the_hub(published: HubServer) -> None:
    draft, told = opened(TARGET)
    assert draft == "fam/Tiny-1B-Instruct"
    assert len(told) == 1
    assert told[0].startswith(f"{draft} drafts for {TARGET}: a smaller model of its family, on the hub (~")
    assert "x for 70% accepted, assumed); it will be downloaded (" in told[0]
    weights = {request.path for request in published.asked(".safetensors", "GET")}
    assert not any("3B" in path or "0.5B" in path for path in weights), "only what was chosen is downloaded"


def test_offline_only_what_is_cached_drafts(published: HubServer) -> None:
    opened(TARGET)
    published.requests.clear()
    draft, told = opened(TARGET, offline=True)
    assert draft == "fam/Tiny-1B-Instruct"
    assert len(told) == 1
    assert told[0].startswith(f"{draft} drafts for {TARGET}: a smaller model of its family, in the cache (~")
    assert told[0].endswith("x for 70% accepted, assumed)")
    assert published.requests == []


def test_without_a_draft_lookup_drafts_and_says_so(published: HubServer) -> None:
    with Session(TARGET, "none", FLOAT32) as session:
        list(session.open())
    draft, told = opened(TARGET, offline=True)
    assert draft is None
    assert told == [f"lookup drafts for {TARGET}: no smaller model with its tokens was found"]


def test_a_curated_target_gets_its_curated_draft_by_id_and_by_name(published: HubServer) -> None:
    draft, told = opened(CURATED)
    assert draft == CURATED_DRAFT
    assert told[0].startswith(f"{draft} drafts for {CURATED}: The smallest model of the family; ")
    assert opened("Qwen2.5-Coder")[0] == CURATED_DRAFT


def test_an_unverified_pair_is_never_chosen(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(choosing, "is_verified", lambda _: False)
    monkeypatch.setattr("specgen.checkpoint.siblings.hub_siblings", lambda *_: [])
    assert opened(CURATED)[0] is None


def test_pair_ranks_the_drafts_and_says_why_the_others_are_none(published: HubServer) -> None:
    outcome = invoke("pairs", TARGET, "--json")
    assert (outcome.code, outcome.err) == (0, "")
    found = {row["draft"].removeprefix("fam/Tiny-"): row for row in json.loads(outcome.text)["candidates"]}
    assert next(iter(found)) == "1B-Instruct"
    best = found["1B-Instruct"]
    assert (best["rejected"], best["shared_tokens"], best["origin"]) == (None, 320, "hub")
    assert best["speed_up"] > 1
    assert best["memory"] < best["free"]
    assert found["3B-Instruct"]["rejected"] == "it is too large to gain speed"
    assert found["0.5B-Instruct"]["rejected"].startswith("the draft does not share the target's tokens: id 10: target ")
    assert set(found) == {"1B-Instruct", "3B-Instruct", "0.5B-Instruct"}
    assert published.asked(".safetensors", "GET") == [], "weights are not fetched"
    lines = invoke("pairs", TARGET).text.splitlines()
    assert lines[0].startswith("fam/Tiny-1B-Instruct (hub): ~")
    assert "fam/Tiny-3B-Instruct (hub): rejected: it is too large to gain speed" in lines


def test_a_folder_beside_a_local_target_is_a_candidate(checkpoints: Any, tmp_path: Path, hub: HubServer) -> None:
    made = {"7b": "family-7b", "1b": "family-1b", "same": "family-7b"}
    for name, folder in made.items():
        shutil.copytree(checkpoints.make(folder, "llama", **LAYERS[folder]), tmp_path / name)
    write_gguf(tmp_path / "1b.gguf", tmp_path / "1b", tokenizer=True)
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "notes.txt").write_text("no model")
    outcome = invoke("pairs", tmp_path / "7b")
    assert outcome.err == "specgen: the hub was not searched for drafts: a local model has no family there\n"
    lines = outcome.text.splitlines()
    assert {line.partition(":")[0] for line in lines[:2]} == {
        f"{tmp_path}/1b (beside)",
        f"{tmp_path}/1b.gguf (beside)",
    }
    assert lines[2].startswith(f"--draft auto does not choose a model beside the target: use -d {tmp_path}/1b")
    assert len(lines) == 4
    assert opened(str(tmp_path / "7b"))[0] is None, "nobody named it"


def test_a_hub_that_was_not_searched_is_named(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with Session(TARGET, "none", FLOAT32) as session:
        list(session.open())
    none = "No draft model fits: use --draft lookup, which --draft auto does.\n"
    offline = invoke("pairs", TARGET, "--offline")
    assert (offline.code, offline.text) == (0, none)
    assert offline.err == "specgen: the hub was not searched for drafts: specgen is offline\n"

    def fail(*_: object) -> None:
        raise DownloadFailed("the hub cannot be reached")

    monkeypatch.setattr("specgen.checkpoint.siblings.hub_siblings", fail)
    broken = invoke("pairs", TARGET)
    assert (broken.code, broken.text) == (0, none)
    assert broken.err == "specgen: the hub was not searched for drafts: the hub cannot be reached\n"
    assert "the hub cannot be reached" in opened(TARGET)[1][0]


def test_a_gguf_target_gets_the_file_that_is_called_like_it(
    published: HubServer, checkpoints: Any, tmp_path: Path
) -> None:
    files = {"Tiny-7B-GGUF": ("family-7b", "tiny-7b-q8_0.gguf"), "Tiny-1B-GGUF": ("family-1b", "tiny-1b-q8_0.gguf")}
    for repo, (made, name) in files.items():
        (tmp_path / repo).mkdir()
        write_gguf(tmp_path / repo / name, checkpoints.make(made, "llama"), tokenizer=True)
        (tmp_path / repo / name.replace("q8_0", "q4_0")).write_bytes(b"GGUF")
        published.publish(f"fam/{repo}", tmp_path / repo)
    target = "fam/Tiny-7B-GGUF:tiny-7b-q8_0.gguf"
    (row,) = json.loads(invoke("pairs", target, "--json").text)["candidates"]
    assert (row["draft"], row["rejected"]) == ("fam/Tiny-1B-GGUF:tiny-1b-q8_0.gguf", None)
    assert all(request.range for request in published.asked("cdn", "GET")), "only headers are fetched"
    assert opened(target)[0] == "fam/Tiny-1B-GGUF"
    opened("fam/Tiny-1B-Instruct")
    rows = json.loads(invoke("pairs", target, "--json", "--offline").text)["candidates"]
    assert [(row["draft"], row["rejected"]) for row in rows] == [("fam/Tiny-1B-Instruct", None)]


def log(target: str, draft: str | None, drafted: int, accepted: int) -> None:
    stats = {"drafted_tokens": 5 * drafted, "accepted_tokens": 0, "by_source": {}}
    if draft:
        stats["by_source"] = {"draft": {"drafted": drafted, "accepted": accepted}}
    settings = {"target": {"id": target}, "draft": {"id": draft} if draft else None, "drafter": "hybrid"}
    said = {"kind": "run", "messages": [Message("user", "hello")], "output": "yes", "reason": "end"}
    with History(location()) as history:
        history.add(settings=settings, stats=stats, **said)  # type: ignore[arg-type]


@pytest.fixture
def past_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", str(tmp_path / "data"))
    log(TARGET, "fam/Tiny-1B-Instruct", 300, 270)
    log(TARGET, "fam/Tiny-1B-Instruct", 100, 30)
    log(TARGET, "fam/Tiny-1B-Instruct", 0, 0)  # lookup drafted everything
    log(TARGET, None, 1000, 1000)
    log("fam/Tiny-13B-Instruct", "fam/Tiny-1B-Instruct", 1000, 1000)
    log(TARGET, "fam/Tiny-0.5B-Instruct", 199, 199)  # too few to say anything


def test_predictions_use_what_past_answers_accepted(published: HubServer, past_answers: None) -> None:
    found = {row["draft"]: row for row in json.loads(invoke("pairs", TARGET, "--json").text)["candidates"]}
    figures = [(row["acceptance_rate"], row["acceptance_basis"], row["past_answers"]) for row in found.values()]
    assert figures[0] == (0.75, "from 2 past answers", 2)
    assert set(figures[1:]) == {(0.7, "assumed", 0)}
    assert " for 75% accepted (from 2 past answers), 320 tokens shared" in invoke("pairs", TARGET).text
    assert "x for 75% accepted, from 2 past answers); it will be downloaded" in opened(TARGET)[1][0]


def test_a_history_that_cannot_be_read_says_nothing(published: HubServer, past_answers: None, pins_file: Path) -> None:
    location().write_bytes(b"no database")
    assert "for 70% accepted (assumed)" in invoke("pairs", TARGET).text


def test_a_padded_vocabulary_is_accepted(hub: HubServer, checkpoints: Any) -> None:
    narrow = {"hidden_size": 8, "head_dim": 2, "intermediate_size": 8}
    hub.publish("fam/Wide-7B", checkpoints.make("wide-7b", "llama", vocab_size=152064, num_hidden_layers=2, **narrow))
    narrow = {"hidden_size": 4, "head_dim": 2, "intermediate_size": 8, "num_attention_heads": 2}
    hub.publish("fam/Wide-1B", checkpoints.make("wide-1b", "llama", vocab_size=151936, num_hidden_layers=1, **narrow))
    (row,) = json.loads(invoke("pairs", "fam/Wide-7B", "--json").text)["candidates"]
    assert (row["draft"], row["rejected"], row["shared_tokens"]) == ("fam/Wide-1B", None, 320)


def test_the_prediction_follows_the_formula() -> None:
    def plan(weights: int, layers: int, device: str) -> ModelPlan:
        import torch

        from specgen.nn.device import Placement
        from specgen.nn.memory import Footprint

        placement = Placement(torch.device(device), torch.float32)
        return ModelPlan(None, placement, Footprint(weights, 0, 0, 0, 0, layers), 0, 0)  # type: ignore[arg-type]

    speed_up, length = choosing.predict(plan(100, 10, "cpu"), plan(10, 9, "cpu"), 0.5)
    assert (round(speed_up, 4), length) == (1.4583, 2)  # 1 + 0.5 + 0.25 tokens in 1 + 2 * 0.1 passes
    assert choosing.predict(plan(100, 10, "cpu"), plan(10, 9, "cpu"), 1.0)[0] > 4
    slow, _ = choosing.predict(plan(100, 10, "cuda"), plan(10, 9, "cuda"), 0.5)
    assert slow < 1, "on a GPU layers cost, not bytes"


# What does not fit


@pytest.fixture
def room_for_a_small_draft(published: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The target is downloaded. Its draft of one layer fits beside it; drafts of eight layers do not."""
    opened(TARGET)
    figures = json.loads(invoke("plan", "-m", TARGET, *IN_FLOAT32, "--json").text)
    assert figures["models"][1]["id"] == "fam/Tiny-1B-Instruct"
    monkeypatch.setattr(planning, "free_memory", lambda _: figures["total"] + 1000)


def test_a_plan_that_does_not_fit_names_a_smaller_draft(room_for_a_small_draft: None) -> None:
    outcome = invoke("plan", "-m", TARGET, "-d", "fam/Tiny-3B-Instruct", *IN_FLOAT32)
    assert outcome.code == 8
    verdict = outcome.text.splitlines()[-1]
    assert verdict.startswith("verdict   does not fit; this does: ")
    assert verdict.endswith("--draft fam/Tiny-1B-Instruct or --draft lookup")


def test_a_draft_that_gives_way_to_lookup_names_a_cached_one_that_fits(
    published: HubServer, room_for_a_small_draft: None
) -> None:
    published.requests.clear()
    with Session(TARGET, "fam/Tiny-3B-Instruct", FLOAT32) as session:
        (told,) = [event.text for event in session.open() if isinstance(event, Notice)]
        assert session.pair.drafter_name == "lookup"
    assert told.endswith("lookup drafts instead; a draft that fits: -d fam/Tiny-1B-Instruct")
    assert not published.asked("api/models", "GET")[2:], "nobody but the draft's own repository is asked"


def test_a_draft_for_a_loaded_target_that_does_not_fit_names_a_smaller_one(
    published: HubServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Session(TARGET, "none", FLOAT32) as session:
        list(session.open())
        small, large = (plan_of(f"fam/Tiny-{size}-Instruct").without_draft.total for size in ("1B", "3B"))
        monkeypatch.setattr(planning, "free_memory", lambda _: (small + large) // 2)
        with pytest.raises(
            OutOfMemory, match=r"fam/Tiny-3B-Instruct takes \d+ MB of memory.*; a draft that fits: (.*); or"
        ):
            list(with_draft(session.pair, "fam/Tiny-3B-Instruct", FLOAT32))


def plan_of(model: str) -> planning.MemoryPlan:
    return planning.plan_pair(small_files(model), None, FLOAT32, torch.device("cpu"))


# No model named


@pytest.fixture
def twelve_gigabytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(planning, "free_memory", lambda _: 12_000_000_000)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stdin and stderr count as terminals for the question."""
    monkeypatch.setattr(suggesting, "is_terminal", lambda _: True)


def test_in_a_pipe_nobody_is_asked(hub: HubServer) -> None:
    outcome = invoke("plan", stdin=b"")
    assert outcome.code == 2
    assert outcome.err == "specgen: no model is named; try -m stories, or name one of the hub: -m org/name\n"


def test_on_a_terminal_a_pair_that_fits_is_suggested(published: HubServer, twelve_gigabytes: None, asked: None) -> None:
    outcome = invoke("plan", stdin=b"n\n")
    assert (outcome.code, outcome.err.count("[Y/n]")) == (2, 1)
    assert outcome.err.startswith("No model is named. ")
    assert "GB to download, apache-2.0)" in outcome.err
    opened(CURATED)
    outcome = invoke("plan", stdin=b"\n")
    assert f"target    {CURATED}: " in outcome.text
    assert outcome.err.startswith(
        f"No model is named. {CURATED} with {CURATED_DRAFT} fits this machine (cached already,"
    )


def test_what_was_only_looked_at_is_not_cached_already(
    published: HubServer, twelve_gigabytes: None, asked: None
) -> None:
    def here() -> str:
        rows = {row["name"]: row["cached"] for row in json.loads(invoke("pairs", "--json").text)}
        return str(rows["qwen2.5-coder-1.5b"])

    invoke("plan", "-m", CURATED)
    assert here() == "nothing"
    assert "cached already" not in invoke("plan", stdin=b"n\n").err
    invoke("pull", CURATED_DRAFT)
    assert here() == "part"
    invoke("pull", CURATED)
    assert here() == "all"


def test_the_end_of_input_at_the_question_is_a_no(hub: HubServer, twelve_gigabytes: None, asked: None) -> None:
    outcome = invoke("plan", stdin=b"")
    assert outcome.code == 2
    assert outcome.err.endswith(
        "[Y/n] \nspecgen: no model is named; try -m stories, or name one of the hub: -m org/name\n"
    )


def test_yes_takes_the_suggestion_unasked(published: HubServer, twelve_gigabytes: None) -> None:
    opened(CURATED)
    assert f"target    {CURATED}: " in invoke("plan", "--yes", stdin=b"").text
