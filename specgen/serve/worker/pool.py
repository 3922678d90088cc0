"""The loaded pairs of a server, and which of them is evicted."""

import ctypes
import gc
import sys
import threading
import time
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch

from specgen.core.errors import OutOfMemory
from specgen.core.events import Event, Finished, Progress, Stats
from specgen.core.types import EngineOptions, ModelRef
from specgen.nn.lean.context_store import ContextStore
from specgen.nn.lean.model import LeanModel
from specgen.nn.memory import free_memory
from specgen.serve.api.http import RequestLimits
from specgen.serve.api.metrics import Metrics
from specgen.serve.worker.compute import ComputeThread, run_apart
from specgen.serve.worker.shared_session import SharedSession
from specgen.serve.worker.worker import Job, Worker
from specgen.session.loading import Evict, PromptCheck, open_pair
from specgen.session.memory_plan import MemoryPlan, plan_pair
from specgen.session.pair import Pair

_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class PairKey:
    """The names and options of a pair."""

    target: str
    draft: str
    options: EngineOptions


class PairOpener(Protocol):
    """Loads a pair, like open_pair."""

    def __call__(
        self,
        target: ModelRef,
        draft: str,
        options: EngineOptions,
        check_prompt: PromptCheck | None,
        evict: Evict | None,
    ) -> Generator[Event, None, Pair]: ...


class Pool:
    """The workers of this process, by pair.

    `named` pairs can be found while they are not loaded. `worker` belongs to one thread; the rest is thread-safe.
    """

    def __init__(
        self,
        limits: RequestLimits,
        metrics: Metrics,
        show: Callable[[Event], None],
        *,
        named: Iterable[PairKey] = (),
        opening: PairOpener = open_pair,
    ) -> None:
        self._limits = limits
        self._metrics = metrics
        self._show = show
        self._named = tuple(named)
        self._opening = opening
        self._threads = torch.get_num_threads()
        self._compute = ComputeThread()
        self._kept = ContextStore(limits.contexts)
        self._workers: dict[PairKey, Worker] = {}
        self._plans: dict[PairKey, MemoryPlan] = {}
        self._load_lock = threading.Lock()
        self._closed = False
        self._idle_since = time.monotonic()
        self._requests_before = 0
        metrics.watch(lambda: self.waiting, lambda: self.running)

    def worker(self, key: PairKey) -> Worker:
        """The worker of a pair, created if needed. Ask it at once: workers without work are dropped."""
        for other, worker in list(self._workers.items()):
            if other != key and not worker.in_use:
                self._idle_since = max(self._idle_since, worker.idle_since)
                self._requests_before += worker.requests
                del self._workers[other]
        if key not in self._workers:
            self._workers[key] = self._new(key)
        return self._workers[key]

    def open(self, key: PairKey) -> Job:
        """Load a pair before the first request."""

        def work(session: SharedSession) -> Generator[Event, None, None]:
            yield from session.open()
            yield Finished("end", "", Stats())

        return self.worker(key).ask(work, "")

    def find(self, name: str | None) -> PairKey | None:
        """The pair of a name. None finds the first named pair, or the one used last."""
        used = sorted(self._in_use().items(), key=lambda entry: -entry[1].idle_since)
        known = [*self._named, *(key for key, _ in used)]
        return next((key for key in known if name in (None, key.target)), None)

    @property
    def known(self) -> list[PairKey]:
        """The named pairs, and those with a worker."""
        return [*self._named, *self._workers]

    def close_changed(self, key: PairKey) -> None:
        """Close a pair from its own thread because its files have changed."""
        session = self._workers[key].session
        models = _lean_models(session.pair)
        session.close()
        self._forget(key, models)

    def open_on_target_of(self, former: PairKey, key: PairKey) -> Generator[Event, None, None]:
        """Open `key` on the loaded target of `former` if nobody else uses `former`, which is closed.

        Runs in the thread of `key`.
        """
        other, session = self._workers.get(former), self._workers[key].session
        if other is None or former in self._named or other.running or other.waiting:
            return
        yield from self._acquire_load_lock()
        try:
            if (pair := other.session.opened) is None:
                return
            try:
                yield from session.open_on(pair)
            except OutOfMemory:  # opening it anew may evict others
                return
            for _ in other.unload():
                yield Progress(f"waiting for {former.target}, which is answering")
            opened, target = session.pair, session.pair.target
            drafts = [model for model in _lean_models(pair) if model is not target]
            del pair
            device = opened.placement.device
            self._plans[key] = plan_pair(opened.checkpoint, opened.draft_checkpoint, opened.options, device)
            for model in _lean_models(opened):
                if model is not target:
                    model.keep_contexts(self._kept)
            self._forget(former, drafts)
        except BaseException:
            session.close()  # the former pair may still use the target
            raise
        finally:
            self._load_lock.release()

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(key.target for key in (*self._named, *self._in_use())))

    @property
    def waiting(self) -> int:
        return sum(worker.waiting for worker in self._all())

    @property
    def running(self) -> int:
        return sum(worker.running for worker in self._all())

    @property
    def requests(self) -> int:
        return self._requests_before + sum(worker.requests for worker in self._all())

    def idle_s(self) -> float:
        """For how many seconds every pair has been idle."""
        return time.monotonic() - max(self._idle_since, *(worker.idle_since for worker in self._all()), 0.0)

    def status(self) -> list[dict[str, Any]]:
        """The loaded and loading pairs, as JSON objects."""
        return [self._describe(key, worker) for key, worker in self._in_use().items()]

    def close(self) -> None:
        """Worker.close for all workers."""
        self._closed = True
        for worker in self._all():
            worker.close()

    def stop(self) -> None:
        """Worker.stop for all workers."""
        for worker in self._all():
            worker.stop()

    def abandon(self) -> None:
        """Worker.abandon for all workers."""
        for worker in self._all():
            worker.abandon()

    def join(self, seconds: float) -> bool:
        """Worker.join for all workers, within `seconds` in all."""
        end = time.monotonic() + seconds
        return all(worker.join(max(0.0, end - time.monotonic())) for worker in self._all())

    def _all(self) -> list[Worker]:
        return list(self._workers.values())

    def _in_use(self) -> dict[PairKey, Worker]:
        return {key: worker for key, worker in list(self._workers.items()) if worker.in_use}

    def _new(self, key: PairKey) -> Worker:
        def opener(
            target: ModelRef, draft: str, options: EngineOptions, check_prompt: PromptCheck | None
        ) -> Generator[Event, None, Pair]:
            return self._open(key, target, draft, options, check_prompt)

        threads = key.options.threads or self._threads
        session = SharedSession(
            key.target, key.draft, key.options, opener=opener, compute=self._compute, threads=threads
        )
        worker = Worker(session, self._limits.waiting, self._metrics, self._show)
        if self._closed:
            worker.close()
        return worker

    def _open(
        self, key: PairKey, target: ModelRef, draft: str, options: EngineOptions, check_prompt: PromptCheck | None
    ) -> Generator[Event, None, Pair]:
        """Load a pair. Only one loads at a time, since the plan counts the free memory."""
        planned: list[MemoryPlan] = []

        def evict(plan: MemoryPlan) -> Generator[Event, None, MemoryPlan]:
            planned.append((yield from self._evict(plan)))
            return planned[0]

        yield from self._acquire_load_lock()
        try:
            opening = self._opening(target, draft, options, check_prompt, evict)
            pair = yield from run_apart(opening, options.threads or self._threads)
            if planned:
                self._plans[key] = planned[0] if pair.draft_checkpoint else planned[0].without_draft
        finally:
            self._load_lock.release()
        for model in _lean_models(pair):
            model.keep_contexts(self._kept)
        return pair

    def _acquire_load_lock(self) -> Generator[Event, None, None]:
        while not self._load_lock.acquire(timeout=_TICK_S):
            yield Progress("waiting until another pair is loaded")

    def _evict(self, plan: MemoryPlan) -> Generator[Event, None, MemoryPlan]:
        """Evict pairs of the same device until `plan` fits: idle ones first, and none if that cannot help."""
        device = plan.target.placement.device
        while True:
            others = {
                other: held for other, held in dict(self._plans).items() if held.target.placement.device == device
            }
            # The caches of loaded pairs will grow to their planned sizes.
            plan = replace(plan, free=free_memory(device) - sum(map(_caches, others.values())))
            most = replace(plan, free=plan.free + sum(_weights(held) + _caches(held) for held in others.values()))
            goal = plan if most.fits else plan.without_draft
            if goal.fits or not most.without_draft.fits or not others:
                return plan
            gone = min(others, key=lambda other: (self._workers[other].running, self._workers[other].idle_since))
            yield from self._unload(gone)

    def _unload(self, key: PairKey) -> Generator[Event, None, None]:
        """Unload a pair after its running answer, and return its memory to the system."""
        worker = self._workers[key]
        pair = worker.session.opened  # None if its own thread has just closed it
        models = _lean_models(pair) if pair else []
        del pair
        for _ in worker.unload():
            yield Progress(f"waiting for the memory of {key.target}, which is answering")
        self._forget(key, models)

    def _forget(self, key: PairKey, models: list[LeanModel]) -> None:
        """Drop the plan and the stored contexts of a closed pair with these `models`."""
        while models:
            models.pop().keep_contexts(ContextStore(0))
        self._plans.pop(key, None)
        _release_memory()

    def _describe(self, key: PairKey, worker: Worker) -> dict[str, Any]:
        plan, pair = self._plans.get(key), worker.session.opened
        draft = pair.draft_checkpoint if pair else None
        return {
            "model": key.target,
            "target": pair.checkpoint.ref.name if pair else None,
            "draft": draft.ref.name if draft else None,
            "drafter": pair.drafter_name if pair else None,
            "state": "loading" if pair is None else "busy" if worker.running else "idle",
            "memory": _weights(plan) + _caches(plan) if pair and plan else 0,
            "requests": worker.requests,
            "running": worker.running,
            "waiting": worker.waiting,
            "idle_s": round(time.monotonic() - worker.idle_since, 1),
        }


def _lean_models(pair: Pair) -> list[LeanModel]:
    return [model for model in (pair.target, pair.draft) if isinstance(model, LeanModel)]


def _weights(plan: MemoryPlan) -> int:
    return sum(model.footprint.weights + model.footprint.tokenizer for model in plan.models)


def _caches(plan: MemoryPlan) -> int:
    return sum(model.footprint.cache for model in plan.models)


def _release_memory() -> None:
    """Return the memory that Python, torch and the C library cache to the system."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()
    if torch.xpu.is_available():
        torch.xpu.empty_cache()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)
