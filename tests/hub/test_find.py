"""Models of the hub, with the real client and a local hub."""

import errno
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from specgen.checkpoint.checkpoint import fetch_weights, find
from specgen.core.errors import (
    AccessDenied,
    DownloadFailed,
    ModelNotFound,
    NotCached,
    SpecgenError,
    UnsupportedModel,
)
from specgen.core.events import Notice, Progress
from specgen.core.progress import follow
from specgen.core.types import ModelRef
from tests.hub.pulling import names, small, whole
from tests.hub_server import HubServer, serve_hub, write_model

hub = pytest.fixture(serve_hub)
SHARDS = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]


@pytest.fixture(autouse=True)
def silence(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """No test may print to the terminal: everything comes as events and errors."""
    yield
    assert capfd.readouterr() == ("", "")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m")


# What is downloaded


def test_the_small_files_come_first_and_alone(hub: HubServer, folder: Path) -> None:
    for extra in ("modeling.py", "pytorch_model.bin", "merges.txt", "original/tokenizer.model", "vocab.json"):
        (folder / extra).parent.mkdir(exist_ok=True)
        (folder / extra).write_text("{}")
    commit = hub.publish("org/m", folder)
    checkpoint = small()
    wanted = {"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "README.md"}
    assert names(checkpoint) == wanted | {"chat_template.jinja", "merges.txt", "vocab.json"}
    assert checkpoint.commit == commit == checkpoint.path.name
    assert checkpoint.weight_bytes == (folder / "model.safetensors").stat().st_size
    assert names(whole()) - names(small()) == set()
    assert "model.safetensors" in names(whole())
    assert "pytorch_model.bin" not in names(whole())


def test_code_comes_only_when_it_is_trusted(hub: HubServer, folder: Path) -> None:
    (folder / "modeling.py").write_text("")
    hub.publish("org/m", folder)
    assert "modeling.py" not in names(whole())
    ref = ModelRef.parse("org/m")
    assert "modeling.py" in names(follow(find(ref, offline=False, trust_remote_code=True), [].append))


def test_shards_are_those_of_the_index(hub: HubServer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    (folder / "consolidated.safetensors").write_bytes(b"again")
    hub.publish("org/m", folder)
    assert small().weight_bytes == sum((folder / name).stat().st_size for name in SHARDS)
    assert [path.name for path in whole().weight_files] == SHARDS
    assert "consolidated.safetensors" not in names(whole())


def test_a_single_file_comes_before_shards(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("org/m", write_model(write_model(tmp_path / "m", shards=2)))
    assert small().weight_bytes == (tmp_path / "m" / "model.safetensors").stat().st_size
    assert {name for name in names(whole()) if "safetensors" in name} == {"model.safetensors"}


def test_a_revision_is_a_branch_a_tag_or_a_commit(hub: HubServer, folder: Path) -> None:
    main = hub.publish("org/m", folder)
    (folder / "README.md").write_text("new")
    new = hub.publish("org/m", folder, "v2")
    assert small("org/m@v2").commit == small(f"org/m@{new}").commit == new != main
    hub.stop()
    assert small("org/m@v2", offline=True).commit == small(f"org/m@{new}", offline=True).commit == new


# Progress


def test_progress_is_one_sum_over_all_files(hub: HubServer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    hub.publish("org/m", folder)
    checkpoint = small()
    events: list[object] = []
    follow(fetch_weights(checkpoint, offline=False), events.append)
    total = sum((folder / name).stat().st_size for name in SHARDS)
    assert events[0] == Progress("org/m", 0, total)
    assert events[-1] == Progress("org/m", total, total)
    done = [event.done for event in events if isinstance(event, Progress)]
    assert len(done) == len(events)
    assert done == sorted(done)


def test_what_is_there_counts_as_done(hub: HubServer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    hub.publish("org/m", folder)
    (whole().path / SHARDS[1]).unlink()
    events: list[object] = []
    whole(events=events)
    assert events[0] == Progress("org/m", (folder / SHARDS[0]).stat().st_size, small().weight_bytes)


# Requests


def test_what_is_cached_costs_one_request(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    whole("org/m@main")
    hub.requests.clear()
    events: list[object] = []
    whole("org/m@main", events=events)
    asked = [(request.method, request.path) for request in hub.requests]
    assert asked == [("GET", "api/models/org/m/revision/main")]
    assert events == []


def test_a_cached_commit_costs_no_request(hub: HubServer, folder: Path) -> None:
    commit = hub.publish("org/m", folder)
    whole()
    hub.requests.clear()
    whole(f"org/m@{commit}")
    assert hub.requests == []


def test_the_token_goes_to_the_hub_and_nowhere_else(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("org/m", folder)
    hub.repositories["org/m"].token = "hf_secret"
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    whole()
    assert {request.token for request in hub.asked("org/m/resolve")} == {"hf_secret"}
    assert {request.token for request in hub.asked("cdn")} == {None}


# Cuts


@pytest.mark.parametrize("reset", [False, True], ids=["closed", "reset"])
def test_a_download_that_is_cut_goes_on_where_it_was(hub: HubServer, folder: Path, reset: bool) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.cuts["model.safetensors"] = 3
    hub.reset = reset
    follow(fetch_weights(checkpoint, offline=False), [].append)
    starts = [int((request.range or "bytes=0-")[6:-1]) for request in hub.asked("cdn", "GET")]
    assert len(starts) == 4
    assert starts[0] == 0
    assert starts[-1] > starts[1] > 0
    assert (checkpoint.path / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


def test_finished_files_are_kept_and_half_ones_never_handed_out(hub: HubServer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2, size=100_000)  # too small to get on between two cuts
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.cuts[SHARDS[1]] = 99
    with pytest.raises(DownloadFailed, match=r"broke off too often .*; try again: finished files are kept"):
        follow(fetch_weights(checkpoint, offline=False), [].append)
    assert SHARDS[0] in names(checkpoint)
    assert not list(hub.cache.rglob("*.incomplete"))
    with pytest.raises(NotCached, match=f"not complete in the cache: {SHARDS[1]} is missing; get it with"):
        whole(offline=True)

    hub.cuts.clear()
    hub.requests.clear()
    follow(fetch_weights(checkpoint, offline=False), [].append)
    assert [Path(request.path).name for request in hub.asked("cdn", "GET")] == [SHARDS[1]]
    assert names(whole(offline=True)) >= set(SHARDS)


def test_a_failed_update_leaves_the_older_commit_usable(hub: HubServer, folder: Path) -> None:
    old = hub.publish("org/m", folder)
    whole("org/m@main")
    write_model(folder, size=100_004)
    new = hub.publish("org/m", folder)
    hub.cuts["model.safetensors"] = 99
    with pytest.raises(DownloadFailed):
        whole("org/m@main")
    assert whole("org/m@main", offline=True).commit == old
    hub.cuts.clear()
    assert whole("org/m@main").commit == new
    assert whole("org/m@main", offline=True).commit == new


def test_closing_stops_the_download(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.stalled.add("model.safetensors")
    reporting = fetch_weights(checkpoint, offline=False)
    while (event := next(reporting)) == Progress("org/m", 0, checkpoint.weight_bytes):
        pass
    assert isinstance(event, Progress)
    assert 0 < event.done < event.total
    reporting.close()
    assert "model.safetensors" not in names(checkpoint)


# Offline


def test_offline_works_and_makes_no_connection(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("org/m", folder)
    online = whole()
    hub.requests.clear()
    assert whole(offline=True) == online
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    assert whole() == online
    with pytest.raises(NotCached, match=r"org/other is not in the cache .*; get it with `specgen pull org/other`"):
        whole("org/other")
    assert hub.requests == []


def test_offline_misses_small_files_too(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    (whole().path / "tokenizer.json").unlink()
    with pytest.raises(NotCached, match=r"tokenizer\.json is missing"):
        whole(offline=True)


def test_a_cache_that_another_tool_filled(hub: HubServer, folder: Path) -> None:
    """Other tools store no list of the commit's files. The cached files must suffice."""
    hub.publish("org/m", folder)
    whole()
    from huggingface_hub import _tree_cache

    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    shutil.rmtree(hub.cache / "models--org--m" / "trees")
    assert whole(offline=True).weight_bytes > 0
    (small(offline=True).path / "model.safetensors").unlink()
    with pytest.raises(NotCached, match=r"model\.safetensors is missing"):
        whole(offline=True)


@pytest.mark.parametrize("content", ["{", "[]", '{"files": 3}', '{"files": {"a": {}}}'])
def test_a_damaged_list_of_files_is_downloaded_again(hub: HubServer, folder: Path, content: str) -> None:
    hub.publish("org/m", folder)
    online = whole()
    from huggingface_hub import _tree_cache

    (listed,) = (hub.cache / "models--org--m" / "trees").iterdir()
    listed.write_text(content)
    _tree_cache._IN_MEMORY_TREE_CACHE.clear()
    assert whole(offline=True) == online
    assert whole() == online


def test_a_damaged_reference_is_no_commit(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    online = whole("org/m@main")
    for content in (b"../../..", b"\xff", b""):
        (hub.cache / "models--org--m" / "refs" / "main").write_bytes(content)
        with pytest.raises(NotCached, match="org/m@main is not in the cache"):
            whole("org/m@main", offline=True)
        assert whole("org/m@main") == online
    assert whole("org/m@main", offline=True) == online


def test_a_hub_that_is_down_is_said_and_the_cache_used(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    online = whole("org/m@main")
    hub.failing = 503
    events: list[object] = []
    assert whole("org/m@main", events=events) == online
    said = f"{hub.url} answered 503 for org/m@main; using the cached copy of org/m@main"
    assert events == [Notice(said)]
    hub.stop()
    from huggingface_hub import close_session

    close_session()
    events.clear()
    assert whole("org/m@main", events=events) == online
    assert isinstance(events[0], Notice)
    assert f"cannot reach {hub.url}" in events[0].text


def test_a_hub_that_is_down_and_nothing_cached(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    hub.stop()
    with pytest.raises(DownloadFailed, match=r"cannot reach http.*for org/m .*refused.*; check the connection"):
        whole()


def test_a_hub_that_refuses_what_is_cached(hub: HubServer, folder: Path) -> None:
    """The cached copy works after a token expired or a repository was deleted."""
    hub.publish("org/m", folder)
    online = whole("org/m@main")
    hub.repositories["org/m"].refusal = (401, "GatedRepo")
    events: list[object] = []
    assert whole("org/m@main", events=events) == online
    assert events == [Notice("org/m@main is gated; using the cached copy of org/m@main")]


# Terms


def test_terms_are_named_before_the_weights_are_downloaded(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text("---\nlicense: other\nlicense_name: qwen-research\n---\n")
    hub.publish("org/m", folder)
    hub.repositories["org/m"].has_terms = True
    events: list[object] = []
    small(events=events)
    assert [event for event in events if isinstance(event, Notice)] == [
        Notice(f"org/m is not for commercial use: its licence is qwen-research, see {hub.url}/org/m"),
        Notice(f"org/m is gated: you are bound by the terms that you accepted at {hub.url}/org/m"),
    ]
    assert not hub.asked("cdn")
    whole()
    events.clear()
    whole(events=events)
    assert events == []  # once is enough


def test_terms_that_bind_nobody_are_not_named(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    events: list[object] = []
    whole(events=events)
    assert not [event for event in events if isinstance(event, Notice)]


# Errors


def refuse(status: int, code: str = "") -> object:
    return lambda hub: setattr(hub.repositories["org/m"], "refusal", (status, code))


def gate(hub: HubServer) -> None:
    hub.repositories["org/m"].gated = True


def fail(status: int) -> object:
    return lambda hub: setattr(hub, "failing", status)


@pytest.mark.parametrize(
    ("source", "trouble", "kind", "says"),
    [
        ("org/none", None, ModelNotFound, "there is no model org/none at {hub}, and no such path here; check"),
        ("none", None, ModelNotFound, "there is no model none at {hub}, and no such path here; check"),
        ("org/m@v9", None, ModelNotFound, "org/m has no revision v9; see {hub}/org/m"),
        ("org/m@" + "0" * 40, None, ModelNotFound, "org/m has no revision 000"),
        (
            "org/m",
            refuse(401),
            AccessDenied,
            "the token is missing or wrong; check the name at {hub}/org/m and set HF_",
        ),
        ("org/m", refuse(401, "GatedRepo"), AccessDenied, "org/m is gated; accept its terms at {hub}/org/m and set HF"),
        ("org/m", refuse(403, "GatedRepo"), AccessDenied, "org/m is gated; accept its terms at {hub}/org/m and set HF"),
        ("org/m", gate, AccessDenied, "org/m is gated; accept its terms at {hub}/org/m and set HF_TOKEN"),
        ("org/m", refuse(403), AccessDenied, "refuses org/m to this token; see {hub}/org/m"),
        ("org/m", fail(500), DownloadFailed, "{hub} answered 500 for org/m; try again later"),
        ("org/m", fail(429), DownloadFailed, "{hub} limits the rate of requests (429); wait"),
    ],
)
def test_what_the_hub_refuses(
    source: str, trouble: object, kind: type[SpecgenError], says: str, hub: HubServer, folder: Path
) -> None:
    hub.publish("org/m", folder)
    if trouble is not None:
        trouble(hub)  # type: ignore[operator]
    with pytest.raises(kind) as caught:
        whole(source)
    assert says.format(hub=hub.url) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("endpoint", "says"),
    [
        ("http://nowhere.invalid", "cannot reach http://nowhere.invalid for org/m"),
        ("nowhere", "nowhere is not a URL; check HF_ENDPOINT"),
    ],
)
def test_an_endpoint_that_is_none(endpoint: str, says: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", endpoint)
    with pytest.raises(DownloadFailed) as caught:
        whole()
    assert says in str(caught.value)


def test_a_repository_of_pickles(hub: HubServer, folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    hub.publish("org/m", folder)
    with pytest.raises(UnsupportedModel, match=r"org/m has pickle weights only.*; choose a model with safetensors"):
        small()
    assert not hub.asked("resolve")


def test_an_index_that_leads_out_of_the_folder(hub: HubServer, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "../../x.safetensors"}}))
    hub.publish("org/m", folder)
    with pytest.raises(SpecgenError, match="names no weight files"):
        whole()


def test_a_disk_that_is_too_small(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    usage = shutil._ntuple_diskusage(100, 90, 10)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(DownloadFailed, match=r"org/m: \d+ kB to download, but .* has \d+ (kB|bytes) left; free some"):
        follow(fetch_weights(checkpoint, offline=False), [].append)


@pytest.mark.parametrize(
    ("number", "says"),
    [(errno.ENOSPC, "the disk is full: org/m does not fit into"), (errno.EROFS, "cannot write to")],
)
def test_a_disk_that_fails(
    number: int, says: str, hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise OSError(number, "no")

    hub.publish("org/m", folder)
    checkpoint = small()
    monkeypatch.setattr("huggingface_hub.file_download.http_get", fails)
    with pytest.raises(DownloadFailed, match=says):
        follow(fetch_weights(checkpoint, offline=False), [].append)
