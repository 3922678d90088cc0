"""The life of a server: it opens the pair, answers, and ends well when it is asked to, or has nothing to do."""

import asyncio
import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import uvicorn

from specgen import __version__
from specgen.engine.runners.decoder import LeanModel
from specgen.events import Event, Notice
from specgen.serve.app import Parts, make_app
from specgen.serve.engine import Engine
from specgen.serve.limits import Limits
from specgen.serve.metrics import Metrics
from specgen.serve.place import Place
from specgen.serve.protocol import protocol
from specgen.session import Session

# How often it is looked whether there is something to do.
_TICK_S = 0.05


class Server:
    """Answers with `session`, which is open, under the name `model`, until `stop` or a signal.

    `keep_alive_s`: it ends when nobody has asked anything for so long, None: never. `show` is told what whoever runs
    it should know.
    """

    def __init__(
        self,
        session: Session,
        model: str,
        place: Place,
        *,
        key: str | None = None,
        keep_alive_s: float | None = None,
        limits: Limits | None = None,
        show: Callable[[Event], None] = lambda _: None,
    ) -> None:
        self._limits = limits or Limits()
        self._session = session
        self._model = model
        self._place = place
        self._keep_alive_s = keep_alive_s
        self._show = show
        self._started_at = time.time()
        target = session.pair.target
        if isinstance(target, LeanModel):
            target.keep_contexts(self._limits.contexts)
        self._asked_to_stop = threading.Event()
        self._at_once = False
        metrics = Metrics()
        self._engine = engine = Engine(session, self._limits.waiting, metrics, show)
        metrics.watch(lambda: engine.waiting, lambda: engine.running)
        parts = Parts(
            model=model,
            created=int(self._started_at),
            engine=engine,
            metrics=metrics,
            limits=self._limits,
            key=key,
            hosts=place.hosts,
            status=self.status,
            stop=self.stop,
            show=show,
        )
        config = uvicorn.Config(
            make_app(parts),
            http=protocol(self._limits),
            ws="none",
            lifespan="off",
            interface="asgi3",
            log_config=None,
            log_level="critical",
            access_log=False,
            proxy_headers=False,
            server_header=False,
            limit_concurrency=self._limits.connections,
            h11_max_incomplete_event_size=self._limits.head,
            timeout_keep_alive=self._limits.idle_connection_s,
        )
        self._uvicorn = _Uvicorn(config)

    def run(self) -> bool:
        """Answer until the end. In the main thread SIGINT and SIGTERM ask for it, a second one ends it at once.

        Whether everything has ended: a thread may be in the middle of a pass, and Python aborts where one still is.
        """
        with self._signals():
            asyncio.run(self._run())
        return self._engine.join(self._limits.last_s)

    def stop(self) -> None:
        """Accept nothing more, give the answer that runs a little time, and end. From any thread."""
        self._asked_to_stop.set()

    def status(self) -> dict[str, Any]:
        """What `specgen ps` shows."""
        pair = self._session.pair
        draft = pair.loaded_draft
        return {
            "version": __version__,
            "pid": os.getpid(),
            "model": self._model,
            "target": pair.loaded_target.id,
            "draft": draft.id if draft else None,
            "drafter": pair.drafter_name,
            "memory": psutil.Process().memory_info().rss,
            "requests": self._engine.requests,
            "running": self._engine.running,
            "waiting": self._engine.waiting,
            "idle_s": round(self._engine.idle_s(), 1),
            "up_s": round(time.time() - self._started_at, 1),
            "keep_alive_s": self._keep_alive_s,
            "url": self._place.url,
            "socket": str(self._place.path) if self._place.path else None,
        }

    async def _run(self) -> None:
        life = asyncio.create_task(self._live())
        try:
            await self._uvicorn.serve(self._place.sockets)
        finally:
            life.cancel()
            self._engine.close()

    async def _live(self) -> None:
        """Say where it answers, wait for the end, and end the answer that runs when its time is over."""
        while not self._uvicorn.started:
            await asyncio.sleep(_TICK_S)
        self._show(Notice(f"{self._model} answers at {self._place}"))
        while not self._asked_to_stop.is_set():
            await asyncio.sleep(_TICK_S)
            if self._keep_alive_s is not None and self._engine.idle_s() >= self._keep_alive_s:
                self._show(Notice("nobody has asked anything for a while: ending"))
                self.stop()
        self._engine.close()
        self._uvicorn.should_exit = True
        end = time.monotonic() + self._limits.stop_s
        while time.monotonic() < end + self._limits.last_s:
            if self._at_once:
                end = min(end, time.monotonic())
            if time.monotonic() >= end:
                self._engine.stop()  # again and again, as an answer that just begins does not hear it
            await asyncio.sleep(_TICK_S)
        # A long prompt is being read, or a caller does not take the end of its answer.
        self._engine.abandon()
        await asyncio.sleep(4 * _TICK_S)
        self._uvicorn.force_exit = True

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        if self._asked_to_stop.is_set():
            self._at_once = True
        self.stop()


class _Uvicorn(uvicorn.Server):
    """Without handlers of its own, which end the process by the signal when everything is over."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
