"""A server process: its HTTP server, its pool of pairs, and how it ends."""

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
from specgen.serve.api.http import RequestLimits, http_protocol
from specgen.serve.api.metrics import Metrics
from specgen.serve.background.endpoint import Endpoint
from specgen.serve.background.fingerprint import Fingerprint
from specgen.serve.background.routes import Routes
from specgen.serve.worker.pool import PairKey, PairOpener, Pool
from specgen.session.loading import open_pair

# Poll interval, in seconds.
_TICK_S = 0.05
# Interval of checks that the socket is still there, in seconds.
_CHECK_S = 1.0


class Server:
    """Answers with the pairs of its `pool` until `stop` or a signal.

    `named` is loaded at the start. The server ends after `keep_alive_s` idle seconds, never for None. A server in the
    `background` was started by a command: each command sets `keep_alive_s`, and newer code replaces it. `fingerprint`
    is that of this process before imports changed the environment. `show` gets notices for the operator.
    """

    def __init__(  # noqa: PLR0913 - one keyword a setting
        self,
        endpoint: Endpoint,
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
        self._endpoint = endpoint
        self._keep_alive_s = keep_alive_s
        self._background = background
        self._show = show
        self._started_at = time.time()
        self._asked_to_stop = threading.Event()
        self._at_once = self._patient = False
        self._failure: SpecgenError | None = None
        metrics = Metrics()
        self.pool = Pool(self._limits, metrics, show, named=[named] if named else [], opening=opening)
        context = AppContext(
            created=int(self._started_at),
            pool=self.pool,
            metrics=metrics,
            limits=self._limits,
            key=key,
            endpoint=endpoint,
            status=self.status,
            stop=self.stop,
            show=show,
            routes=Routes(
                self.pool,
                self._limits,
                keep=self._keep,
                retire=self._retire if background else None,
                fingerprint=fingerprint or Fingerprint.own(),
                show=show,
            ),
        )
        config = uvicorn.Config(
            make_app(context),
            http=http_protocol(self._limits),
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
        """Answer until the end. Returns whether every thread has ended; Python aborts at its exit otherwise.

        In the main thread SIGINT, SIGTERM and SIGHUP end the server, and a second one ends it at once. Raises
        SpecgenError if the named pair cannot be loaded.
        """
        with self._signals():
            asyncio.run(self._run())
        ended = self.pool.join(self._limits.last_s)
        if self._failure:
            raise self._failure
        return ended

    def stop(self) -> None:
        """Accept no more requests, give running answers a short time, and end. Thread-safe."""
        self._asked_to_stop.set()

    def _keep(self, seconds: float) -> None:
        if self._background:
            self._keep_alive_s = seconds

    def _retire(self) -> None:
        """End after the running answers, however long they take."""
        self._patient = True
        self.stop()

    def status(self) -> dict[str, Any]:
        """The data of `specgen ps`."""
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
            "url": self._endpoint.url,
            "socket": str(self._endpoint.path) if self._endpoint.path else None,
        }

    async def _run(self) -> None:
        life = asyncio.create_task(self._live())
        try:
            await self._uvicorn.serve(self._endpoint.sockets)
        finally:
            life.cancel()
            self.pool.close()

    async def _live(self) -> None:
        """Load the named pair, wait for the end, and end the running answers in time."""
        while not self._uvicorn.started:
            await asyncio.sleep(_TICK_S)
        opening = asyncio.create_task(self._open())
        checking = asyncio.create_task(self._check_socket())
        while not self._asked_to_stop.is_set():
            await asyncio.sleep(_TICK_S)
            if self._keep_alive_s is not None and self.pool.idle_s() >= self._keep_alive_s:
                self._show(Notice("nobody has asked anything for a while: ending"))
                self.stop()
        opening.cancel()
        checking.cancel()
        self.pool.close()
        self._uvicorn.should_exit = True
        end = time.monotonic() + self._limits.stop_s
        while self._patient and self.pool.running and not self._at_once:
            await asyncio.sleep(_TICK_S)
        while time.monotonic() < end + self._limits.last_s:
            if self._at_once:
                end = min(end, time.monotonic())
            if time.monotonic() >= end:
                self.pool.stop()  # repeatedly, since an answer that just begins misses it
            await asyncio.sleep(_TICK_S)
        # A long prompt is being read, or a caller does not take the end of its answer.
        self.pool.abandon()
        await asyncio.sleep(4 * _TICK_S)
        self._uvicorn.force_exit = True

    async def _check_socket(self) -> None:
        """End when the socket is gone, since no command can reach the server then. HTTP over TCP goes on."""
        while self._endpoint.is_reachable():
            await asyncio.sleep(_CHECK_S)
        if self._endpoint.url:
            self._show(Notice(f"{self._endpoint.path} is gone: specgen ps and stop cannot reach this server"))
        else:
            self._show(Notice(f"{self._endpoint.path} is gone: ending"))
            self.stop()

    async def _open(self) -> None:
        """Load the named pair, if any, and show the address."""
        if self._named:
            job = self.pool.open(self._named)
            while not isinstance(event := await job.next(), Finished):
                if isinstance(event, Failed):
                    self._failure = event.error
                    self.stop()
                    return
                self._show(event)
        self._show(Notice(f"{self._named.target if self._named else 'specgen'} answers at {self._endpoint}"))

    @contextlib.contextmanager
    def _signals(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._handle) for number in _signal_numbers()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _handle(self, *_: object) -> None:
        if self._asked_to_stop.is_set():
            self._at_once = True
        self.stop()


def _signal_numbers() -> list[signal.Signals]:
    """The signals that end a server. SIGHUP stays ignored under nohup."""
    numbers = [signal.SIGINT, signal.SIGTERM]
    if hasattr(signal, "SIGHUP") and signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    return numbers


class _Uvicorn(uvicorn.Server):
    """uvicorn without its signal handlers, which raise the signal again at the end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield
