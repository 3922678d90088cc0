"""Offline: cached models run, and no connection is tried."""

import json
import socket
from typing import Any

import pytest

from tests.cli.command import Run, Terminal
from tests.hub_server import HubServer, serve_hub

hub = pytest.fixture(serve_hub)


class Guard:
    """From now on the network is down. `tried` records each attempt."""

    def __init__(self, hub: HubServer, patch: pytest.MonkeyPatch) -> None:
        self._hub, self._patch = hub, patch
        self.tried: list[Any] = []

    def put_up(self) -> None:
        self._hub.stop()
        for name in ("connect", "connect_ex"):
            self._patch.setattr(socket.socket, name, self._refuse)
        self._patch.setattr(socket, "getaddrinfo", self._refuse)
        self._patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    def _refuse(self, *arguments: Any, **_: Any) -> None:
        self.tried.append(arguments)
        raise OSError("the network is down")


@pytest.fixture
def guard(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Guard:
    monkeypatch.setattr("sys.stdin", Terminal(""))
    return Guard(hub, monkeypatch)


def test_a_cached_pair_runs_with_hf_hub_offline_and_makes_no_connection(
    hub: HubServer, guard: Guard, checkpoints: Any, run: Run
) -> None:
    target = hub.publish("org/target", checkpoints.target("llama"))
    draft = hub.publish("org/draft", checkpoints.draft("llama"))
    assert run("pull", "org/target", "org/draft")[0] == 0
    guard.put_up()
    arguments = ["-m", "org/target", "-d", "org/draft", "--temp", "0", "-n", "4", "--json", "the dog"]
    code, out, err = run("run", *arguments)
    assert (code, err) == (0, "")
    started, *_, finished = (json.loads(line) for line in out.splitlines())
    for event in (started, finished["models"]):
        assert [event[role]["revision"] for role in ("target", "draft")] == [target, draft]
        assert all(len(digest) == 64 for digest in event["target"]["files"].values())
        assert {"model.safetensors", "config.json", "tokenizer.json"} <= event["draft"]["files"].keys()
    for command in (["show", "org/target"], ["list"], ["pull", "org/draft"], ["rm", "-y", "org/draft"]):
        assert run(*command)[0] == 0
    assert guard.tried == []


def test_what_is_not_cached_is_said_without_a_connection(
    hub: HubServer, guard: Guard, checkpoints: Any, run: Run
) -> None:
    hub.publish("org/target", checkpoints.target("llama"))
    assert run("show", "org/target")[0] == 0  # the small files alone
    guard.put_up()
    code, out, err = run("run", "-m", "org/target", "-d", "none", "the dog")
    assert (code, out) == (5, "")
    assert "org/target is not complete in the cache: model.safetensors is missing; get it with `specgen pull" in err
    code, out, err = run("run", "-m", "org/other", "the dog")
    assert (code, out) == (5, "")
    assert f"org/other is not in the cache ({hub.cache}); get it with `specgen pull org/other` while online" in err
    assert guard.tried == []


def test_the_network_guard_works(hub: HubServer, guard: Guard, run: Run) -> None:
    guard.put_up()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        assert run("pull", "org/m")[0] == 6
    assert guard.tried
