"""Opening a pair: what is downloaded, and how an interrupt ends it."""

import threading
from typing import Any

import pytest
import torch

from specgen.core.events import Failed, Notice
from specgen.core.types import Dtype, EngineOptions, Quant
from specgen.hub.cache import complete_models
from specgen.session import loading
from specgen.session.session import Session
from tests.hub_server import HubServer, serve_hub

hub = pytest.fixture(serve_hub)
FLOAT32 = EngineOptions(quant=Quant.NONE, dtype=Dtype.FLOAT32)


def test_no_draft_is_downloaded_for_a_target_that_cannot_verify(hub: HubServer, checkpoints: Any) -> None:
    hub.publish("org/recurrent", checkpoints.target("mamba"))
    hub.publish("org/draft", checkpoints.draft("llama"))
    with Session("org/recurrent", "org/draft", FLOAT32) as session:
        told = [event.text for event in session.open() if isinstance(event, Notice)]
        assert session.pair.drafter_name == "none"
    assert told == ["org/recurrent cannot take back a rejected token, so nothing is drafted"]
    assert "org/recurrent" in complete_models()
    assert "org/draft" not in complete_models()


def test_both_are_downloaded_for_a_target_that_runs_on_transformers(hub: HubServer, checkpoints: Any) -> None:
    hub.publish("org/large", checkpoints.target("gpt2"))
    hub.publish("org/draft", checkpoints.draft("gpt2"))
    with Session("org/large", "org/draft", FLOAT32) as session:
        list(session.open())
        assert session.pair.drafter_name == "hybrid"


def test_an_interrupt_does_not_wait_for_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    begun, release, ended = threading.Event(), threading.Event(), threading.Event()

    def hash_slowly(*_: object) -> None:
        begun.set()
        release.wait(30)
        ended.set()

    monkeypatch.setattr(loading, "loaded_model", hash_slowly)
    opening = Session("stories", "none", FLOAT32).open()
    while not begun.is_set():
        next(opening)
    with pytest.raises(KeyboardInterrupt):
        opening.throw(KeyboardInterrupt)
    assert not ended.is_set()
    release.set()


def test_hashes_are_computed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer waits for those that are being computed."""
    done = threading.Event()

    def hash_slowly(*_: object) -> None:
        threading.Event().wait(0.3)
        done.set()

    monkeypatch.setattr(loading, "loaded_model", hash_slowly)
    list(Session("stories", "none", FLOAT32).open())
    assert done.is_set()


def test_threads_hold_for_their_pair_only(checkpoints: Any) -> None:
    before = torch.get_num_threads()
    for wanted in (before + 1, before + 2, None):
        session = Session(str(checkpoints.target("llama")), "none", EngineOptions(threads=wanted))
        assert [event for event in session.generate("x", max_new_tokens=1) if isinstance(event, Failed)] == []
        assert torch.get_num_threads() == (wanted or before)
        session.close()
