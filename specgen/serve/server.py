"""The life of a server: it answers with the pairs on its pool, and ends well when it is asked to, or is idle."""

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
from specgen.core.errors import SpecgenError
from specgen.core.events import Event, Failed, Finished, Notice
from specgen.serve.api.app import AppContext, make_app
from specgen.serve.api.http import RequestLimits
from specgen.serve.api.metrics import Metrics
from specgen.serve.api.protocol import protocol
from specgen.serve.background.endpoint import Endpoint
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.routes import Routes
from specgen.serve.worker.pool import PairKey, PairOpener, Pool
from specgen.session.loading import open_pair

# How often it is looked whether there is something to do.
_TICK_S = 0.05


class Server:
    """Answers with the pairs on its `pool`, until `stop` or a signal.

    `named` is loaded at the start. `keep_alive_s`: it ends when nobody has asked anything for so long, None: never. In
    the `background` nobody looks after it: then commands that ask say how long it stays, and a newer one replaces it.
    `fingerprint` is that of this process before it imported what may change its environment.
    `show` is told what whoever runs it should know. `opening` loads pairs.
    """

    def __init__(  # noqa: PLR0913 - one keyword a setting
        self,
        place: Endpoint,
        named: PairKey | None = None,
        *,
        key: str | None = None,
        keep_alive_s: float | None = None,
        background: bool = False,
        fingerprint: Fingerprint | None = None,
        limits: RequestLimits | None = None,
        show: Callable[[Event], None] = lambda _: None,
        opening: PairOpener = open_pair,
    ) -> None:
        self._limits = limits or RequestLimits()
        self._named = named
        self._place = place
        self._keep_alive_s = keep_alive_s
        self._background = background
        self._show = show
        self._started_at = time.time()
        self._asked_to_stop = threading.Event()
        self._at_once = self._patient = False
        self._failure: SpecgenError | None = None
        metrics = Metrics()
        self.pool = Pool(self._limits, metrics, show, named=[named] if named else [], opening=opening)
        parts = AppContext(
            created=int(self._started_at),
            pool=self.pool,
            metrics=metrics,
            limits=self._limits,
            key=key,
            place=place,
            status=self.status,
            stop=self.stop,
            show=show,
            private=Routes(
                self.pool,
                self._limits,
                keep=self._keep,
                retire=self._retire if background else None,
                fingerprint=fingerprint or Fingerprint.own(),
                show=show,
            ),
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
        Raises SpecgenError where the pair that was named cannot be loaded.
        """
        with self._signals():
            asyncio.run(self._run())
        ended = self.pool.join(self._limits.last_s)
        if self._failure:
            raise self._failure
        return ended

    def stop(self) -> None:
        """Accept nothing more, give the answer that runs a little time, and end. From any thread."""
        self._asked_to_stop.set()

    def _keep(self, seconds: float) -> None:
        if self._background:
            self._keep_alive_s = seconds

    def _retire(self) -> None:
        """End when the answers that run have ended, however long that takes."""
        self._patient = True
        self.stop()

    def status(self) -> dict[str, Any]:
        """What `specgen ps` shows."""
        return {
            "version": __version__,
            "pid": os.getpid(),
            "pairs": self.pool.status(),
            "memory": psutil.Process().memory_info().rss,
            "requests": self.pool.requests,
            "running": self.pool.running,
            "waiting": self.pool.waiting,
            "idle_s": round(self.pool.idle_s(), 1),
            "up_s": round(time.time() - self._started_at, 1),
            "keep_alive_s": self._keep_alive_s,
            "background": self._background,
            "url": self._place.url,
            "socket": str(self._place.path) if self._place.path else None,
        }

    async def _run(self) -> None:
        life = asyncio.create_task(self._live())
        try:
            await self._uvicorn.serve(self._place.sockets)
        finally:
            life.cancel()
            self.pool.close()

    async def _live(self) -> None:
        """Load what was named, wait for the end, and end the answers that run when their time is over."""
        while not self._uvicorn.started:
            await asyncio.sleep(_TICK_S)
        opening = asyncio.create_task(self._open())
        while not self._asked_to_stop.is_set():
            await asyncio.sleep(_TICK_S)
            if self._keep_alive_s is not None and self.pool.idle_s() >= self._keep_alive_s:
                self._show(Notice("nobody has asked anything for a while: ending"))
                self.stop()
        opening.cancel()
        self.pool.close()
        self._uvicorn.should_exit = True
        end = time.monotonic() + self._limits.stop_s
        while self._patient and self.pool.running and not self._at_once:
            await asyncio.sleep(_TICK_S)
        while time.monotonic() < end + self._limits.last_s:
            if self._at_once:
                end = min(end, time.monotonic())
            if time.monotonic() >= end:
                self.pool.stop()  # again and again, as an answer that just begins does not hear it
            await asyncio.sleep(_TICK_S)
        # A long prompt is being read, or a caller does not take the end of its answer.
        self.pool.abandon()
        await asyncio.sleep(4 * _TICK_S)
        self._uvicorn.force_exit = True

    async def _open(self) -> None:
        """Load the pair that was named, if any, and say where it answers."""
        if self._named:
            job = self.pool.open(self._named)
            while not isinstance(event := await job.next(), Finished):
                if isinstance(event, Failed):
                    self._failure = event.error
                    self.stop()
                    return
                self._show(event)
        self._show(Notice(f"{self._named.target if self._named else 'specgen'} answers at {self._place}"))

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
