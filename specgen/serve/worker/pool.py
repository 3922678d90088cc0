"""Several pairs in one process: each is loaded when it is wanted, and stays as long as there is room for it."""

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
from specgen.serve.api.metrics import Metrics, caches, give_back, lean_models, weights
from specgen.serve.worker.shared_session import SharedSession
from specgen.serve.worker.worker import Job, Worker
from specgen.session.loading import Evict, PromptCheck, open_pair
from specgen.session.memory_plan import MemoryPlan, plan_pair
from specgen.session.pair import Pair

_TICK_S = 0.1


@dataclass(frozen=True, slots=True)
class PairKey:
    """A pair as a session is asked for it: what names it, and how it is to be opened and run."""

    target: str
    draft: str
    options: EngineOptions


class PairOpener(Protocol):
    """open_pair, or what a test has in its place."""

    def __call__(
        self,
        target: ModelRef,
        draft: str,
        options: EngineOptions,
        check_prompt: PromptCheck | None,
        evict: Evict | None,
    ) -> Generator[Event, None, Pair]: ...


class Pool:
    """The workers of this process by the pair that they answer with.

    `named` are found by name before they are loaded, and after they had to go. All of this but `worker`, which belongs
    to one thread, may be called from any.
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
        self._kept = ContextStore(limits.contexts)
        self._workers: dict[PairKey, Worker] = {}
        self._plans: dict[PairKey, MemoryPlan] = {}
        self._one_opens = threading.Lock()
        self._closed = False
        self._idle_since = time.monotonic()
        self._requests_before = 0
        metrics.watch(lambda: self.waiting, lambda: self.running)

    def worker(self, wanted: PairKey) -> Worker:
        """The worker of that pair, made where it is not there yet. Ask it at once: one without work is forgotten."""
        for other, worker in list(self._workers.items()):
            if other != wanted and not worker.in_use:
                self._idle_since = max(self._idle_since, worker.idle_since)
                self._requests_before += worker.requests
                del self._workers[other]
        if wanted not in self._workers:
            self._workers[wanted] = self._new(wanted)
        return self._workers[wanted]

    def open(self, wanted: PairKey) -> Job:
        """Load a pair that nobody has asked yet."""

        def work(session: SharedSession) -> Generator[Event, None, None]:
            yield from session.open()
            yield Finished("end", "", Stats())

        return self.worker(wanted).ask(work, "")

    def find(self, name: str | None) -> PairKey | None:
        """The pair of that name; None finds the one that was named first, else the one that was used last."""
        used = sorted(self._in_use().items(), key=lambda entry: -entry[1].idle_since)
        known = [*self._named, *(wanted for wanted, _ in used)]
        return next((wanted for wanted in known if name in (None, wanted.target)), None)

    @property
    def known(self) -> list[PairKey]:
        """What has a worker, and what was named."""
        return [*self._named, *self._workers]

    def let_go(self, wanted: PairKey) -> None:
        """Close a pair from its own thread, while nothing runs there: what it was loaded from has changed."""
        session = self._workers[wanted].session
        models = lean_models(session.pair)
        session.close()
        self._forget(wanted, models)

    def open_instead_of(self, former: PairKey, wanted: PairKey) -> Generator[Event, None, None]:
        """Open a pair, from its own thread, on the target of `former`, which goes, where nobody else needs that."""
        giver, session = self._workers.get(former), self._workers[wanted].session
        if giver is None or former in self._named or giver.running or giver.waiting:
            return
        yield from self._take_turn()
        try:
            if (pair := giver.session.opened) is None:
                return
            try:
                yield from session.open_on(pair)
            except OutOfMemory:  # others may make room
                return
            for _ in giver.unload():
                yield Progress(f"waiting for {former.target}, which is answering")
            opened, target = session.pair, session.pair.target
            drafts = [model for model in lean_models(pair) if model is not target]
            del pair
            device = opened.placement.device
            self._plans[wanted] = plan_pair(opened.checkpoint, opened.draft_checkpoint, opened.options, device)
            for model in lean_models(opened):
                if model is not target:
                    model.keep_contexts(self._kept)
            self._forget(former, drafts)
        except BaseException:
            session.close()  # the target may be in use by the former still
            raise
        finally:
            self._one_opens.release()

    @property
    def names(self) -> list[str]:
        return list(dict.fromkeys(wanted.target for wanted in (*self._named, *self._in_use())))

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
        """For how long no pair has had anything to do, in seconds."""
        return time.monotonic() - max(self._idle_since, *(worker.idle_since for worker in self._all()), 0.0)

    def status(self) -> list[dict[str, Any]]:
        """Every pair that is loaded, or is about to be."""
        return [self._about(wanted, worker) for wanted, worker in self._in_use().items()]

    def close(self) -> None:
        """As Worker.close, of all of them."""
        self._closed = True
        for worker in self._all():
            worker.close()

    def stop(self) -> None:
        """As Worker.stop, of all of them."""
        for worker in self._all():
            worker.stop()

    def abandon(self) -> None:
        """As Worker.abandon, of all of them."""
        for worker in self._all():
            worker.abandon()

    def join(self, seconds: float) -> bool:
        """As Worker.join, of all of them together."""
        end = time.monotonic() + seconds
        return all(worker.join(max(0.0, end - time.monotonic())) for worker in self._all())

    def _all(self) -> list[Worker]:
        return list(self._workers.values())

    def _in_use(self) -> dict[PairKey, Worker]:
        return {wanted: worker for wanted, worker in list(self._workers.items()) if worker.in_use}

    def _new(self, wanted: PairKey) -> Worker:
        def opener(
            target: ModelRef, draft: str, options: EngineOptions, check_prompt: PromptCheck | None
        ) -> Generator[Event, None, Pair]:
            return self._open(wanted, target, draft, options, check_prompt)

        session = SharedSession(wanted.target, wanted.draft, wanted.options, opener=opener)
        threads = wanted.options.threads or self._threads
        worker = Worker(session, threads, self._limits.waiting, self._metrics, self._show)
        if self._closed:
            worker.close()
        return worker

    def _open(
        self, wanted: PairKey, target: ModelRef, draft: str, options: EngineOptions, check_prompt: PromptCheck | None
    ) -> Generator[Event, None, Pair]:
        """Load a pair, one at a time: what is free is true only as long as nobody else takes it."""
        planned: list[MemoryPlan] = []

        def evict(plan: MemoryPlan) -> Generator[Event, None, MemoryPlan]:
            planned.append((yield from self._make_room(plan)))
            return planned[0]

        yield from self._take_turn()
        try:
            pair = yield from self._opening(target, draft, options, check_prompt, evict)
            if planned:
                self._plans[wanted] = planned[0] if pair.draft_checkpoint else planned[0].without_draft
        finally:
            self._one_opens.release()
        for model in lean_models(pair):
            model.keep_contexts(self._kept)
        return pair

    def _take_turn(self) -> Generator[Event, None, None]:
        while not self._one_opens.acquire(timeout=_TICK_S):
            yield Progress("waiting until another pair is loaded")

    def _make_room(self, plan: MemoryPlan) -> Generator[Event, None, MemoryPlan]:
        """Let other pairs of the device go, as far as it helps, until this one fits: first those that do nothing."""
        device = plan.target.placement.device
        while True:
            others = {
                other: held for other, held in dict(self._plans).items() if held.target.placement.device == device
            }
            # The caches of pairs that are loaded will grow to what was planned for them.
            plan = replace(plan, free=free_memory(device) - sum(map(caches, others.values())))
            most = replace(plan, free=plan.free + sum(weights(held) + caches(held) for held in others.values()))
            goal = plan if most.fits else plan.without_draft
            if goal.fits or not most.without_draft.fits or not others:
                return plan
            gone = min(others, key=lambda other: (self._workers[other].running, self._workers[other].idle_since))
            yield from self._unload(gone)

    def _unload(self, wanted: PairKey) -> Generator[Event, None, None]:
        """Let a pair go, after the answer that it is giving, and give its memory back to the system."""
        worker = self._workers[wanted]
        pair = worker.session.opened  # none where it has just been let go by its own thread
        models = lean_models(pair) if pair else []
        del pair
        for _ in worker.unload():
            yield Progress(f"waiting for the memory of {wanted.target}, which is answering")
        self._forget(wanted, models)

    def _forget(self, wanted: PairKey, models: list[LeanModel]) -> None:
        """Nothing is left of a pair that was closed, and of its `models`."""
        while models:
            models.pop().keep_contexts(ContextStore(0))
        self._plans.pop(wanted, None)
        give_back()

    def _about(self, wanted: PairKey, worker: Worker) -> dict[str, Any]:
        plan, pair = self._plans.get(wanted), worker.session.opened
        draft = pair.draft_checkpoint if pair else None
        return {
            "model": wanted.target,
            "target": pair.checkpoint.ref.name if pair else None,
            "draft": draft.ref.name if draft else None,
            "drafter": pair.drafter_name if pair else None,
            "state": "loading" if pair is None else "busy" if worker.running else "idle",
            "memory": weights(plan) + caches(plan) if pair and plan else 0,
            "requests": worker.requests,
            "running": worker.running,
            "waiting": worker.waiting,
            "idle_s": round(time.monotonic() - worker.idle_since, 1),
        }
