"""A server in this process, over fakes that answer when a test lets them."""

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import pytest
import torch
from openai import OpenAI

from specgen.core.events import Event, Notice, Progress
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, ModelRef
from specgen.serve.api.http import RequestLimits
from specgen.serve.background.endpoint import open_endpoint
from specgen.serve.server import Server
from specgen.serve.worker.pool import PairKey, PairOpener
from specgen.session.pair import Pair
from specgen.session.session import Session
from tests.fakes import Speaker, encode, fake_session

LONG = 60  # seconds that nothing here takes, unless something is broken
ASK = {"messages": [{"role": "user", "content": "hello"}]}


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + LONG
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@dataclass
class Running:
    server: Server
    url: str
    path: Path
    thread: threading.Thread
    told: list[Event]

    @property
    def notices(self) -> list[str]:
        """What whoever runs the server was told, after where it answers."""
        return [event.text for event in self.told if isinstance(event, Notice)][1:]

    def openai(self, key: str = "none") -> OpenAI:
        return OpenAI(base_url=f"{self.url}/v1", api_key=key, max_retries=0, timeout=LONG)

    def http(self) -> httpx2.Client:
        return httpx2.Client(base_url=self.url, timeout=LONG)

    def unix(self) -> httpx2.Client:
        transport = httpx2.HTTPTransport(uds=str(self.path))
        return httpx2.Client(transport=transport, base_url="http://localhost", timeout=LONG)

    def connect(self) -> socket.socket:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)), timeout=LONG)


@contextlib.contextmanager
def running(
    session: Session,
    folder: Path,
    *,
    limits: RequestLimits | None = None,
    opening: PairOpener | None = None,
    wait: bool = True,
    **options: Any,
) -> Iterator[Running]:
    """A server over `session`, whose socket is in `folder`; its end is waited for, and that it is loaded."""
    told: list[Event] = []
    answers = threading.Event()

    def tell(event: Event) -> None:
        told.append(event)
        if isinstance(event, Notice):
            answers.set()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specgen.serve.background.endpoint.user_runtime_path", lambda *_, **__: folder / "runtime")
        with open_endpoint("127.0.0.1:0", has_key=False) as endpoint:
            wanted = PairKey("fake", "none", EngineOptions(num_draft_tokens=session._options.num_draft_tokens))
            server = Server(
                endpoint, wanted, limits=limits, show=tell, opening=opening or opening_of(session), **options
            )
            thread = threading.Thread(target=server.run)
            thread.start()
            assert endpoint.url
            assert endpoint.path
            try:
                assert not wait or answers.wait(LONG)
                yield Running(server, endpoint.url, endpoint.path, thread, told)
            finally:
                server.stop()
                thread.join(LONG)
                assert not thread.is_alive()


@contextlib.contextmanager
def crowded(
    folder: Path, *, opened: bool = False, **options: Any
) -> Iterator[tuple[Running, "Gated", ThreadPoolExecutor]]:
    """A server over a model that waits for the test, see `gated`, and threads for those who ask it."""
    session, model = gated(folder, opened=opened)
    # The server ends first, and with it what the threads wait for.
    with ThreadPoolExecutor(8) as pool, running(session, folder, **options) as server:
        yield server, model, pool


def opening_of(*sessions: Session) -> PairOpener:
    """What loads pairs that are there: the second one under the name `other`."""

    def load(target: ModelRef, *_: object) -> Generator[Event, None, Pair]:
        yield Progress("loading fake")
        return sessions[target.source == "other"].pair

    return load


class Gated(Speaker):
    """Says `a` for ever, one forward pass for each `pass_on`."""

    def __init__(self, *, opened: bool) -> None:
        super().__init__([], 0)
        self._gate = threading.Semaphore(10**6 if opened else 0)
        self._begun = threading.Semaphore(0)

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        return torch.nn.functional.one_hot(torch.tensor(encode("a")[0]), self.vocab_size).float()

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        self._begun.release()
        assert self._gate.acquire(timeout=LONG)
        return super().forward(tokens, last)

    def pass_on(self, passes: int = 1) -> None:
        self._gate.release(passes)

    def wait_for_a_pass(self) -> None:
        assert self._begun.acquire(timeout=LONG)


def gated(folder: Path, *, opened: bool = False) -> tuple[Session, Gated]:
    """A session over a model that waits for the test; `opened` lets it run."""
    model = Gated(opened=opened)
    return fake_session(model, folder=folder, k=0), model
