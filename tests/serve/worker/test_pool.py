"""Several pairs in one process, driven as the paths of a server drive them: from an event loop."""

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from specgen.core.errors import OutOfMemory, SpecgenError
from specgen.core.events import Event, Failed, Finished, Progress, Started, Step
from specgen.core.types import EngineOptions, ModelRef
from specgen.nn.memory import Footprint
from specgen.serve.api.errors import ApiError
from specgen.serve.api.http import RequestLimits
from specgen.serve.api.metrics import Metrics
from specgen.serve.worker.pool import PairKey, Pool
from specgen.serve.worker.worker import Job
from specgen.session.loading import Evict, PromptCheck
from specgen.session.memory_plan import MemoryPlan, ModelPlan, check_memory
from specgen.session.pair import Pair
from specgen.session.session import Session
from tests.fakes import fake_session
from tests.serve.running import LONG, Gated

WEIGHTS = 10**9
FOR_ONE = WEIGHTS + 10**8
OPTIONS = EngineOptions(num_draft_tokens=0)


@dataclass
class Pairs:
    """Opens pairs of fakes; each takes WEIGHTS of the `total` bytes there are."""

    folder: Path
    total: int = 10 * WEIGHTS
    models: dict[str, Gated] = field(default_factory=dict)
    opened: bool = False
    loads: list[str] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    on_load: Callable[[], object] = lambda: None
    pool: Pool = field(init=False)

    def __post_init__(self) -> None:
        self.pool = Pool(RequestLimits(), Metrics(), lambda _: None, opening=self.load)

    def load(
        self, target: ModelRef, draft: str, options: EngineOptions, examine: PromptCheck | None, make_room: Evict | None
    ) -> Generator[Event, None, Pair]:
        assert make_room
        yield Progress(f"loading {target}")
        session = fake_session(Gated(opened=self.opened), folder=self.folder, k=0)
        pair = session.pair
        footprint = Footprint(weights=WEIGHTS, tokenizer=0, cache=0, loading=0, passing=0, layers=1)
        checkpoint = replace(pair.checkpoint, ref=target)
        plan = MemoryPlan(ModelPlan(checkpoint, pair.placement, footprint, 64, 0), None, 64, True, 64, self.total)
        check_memory((yield from make_room(plan)), options)
        if target.source == "broken":
            raise SpecgenError("it is broken")
        self.loads.append(target.source)
        self.on_load()
        self.models[target.source] = pair.target  # type: ignore[assignment]
        return replace(pair, checkpoint=checkpoint)

    def free(self, _: torch.device) -> int:
        return self.total - WEIGHTS * len(self.pool._plans)

    def ask(self, name: str, tokens: int = 2, caller: str = "me", options: EngineOptions = OPTIONS) -> Job:
        def work(session: Session) -> Iterator[Event]:
            self.turns.append(caller)
            return session.generate("hello", max_new_tokens=tokens)

        return self.pool.worker(PairKey(name, "none", options)).ask(work, caller)

    @property
    def names(self) -> list[str]:
        return [pair["model"] for pair in self.pool.status()]


@pytest.fixture
def pairs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Pairs]:
    made = Pairs(tmp_path)
    monkeypatch.setattr("specgen.serve.worker.pool.free_memory", made.free)
    yield made
    made.pool.close()
    for model in made.models.values():
        model.pass_on(10_000)
    assert made.pool.join(LONG)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, LONG))


async def until(true: Callable[[], bool]) -> None:
    while not true():
        await asyncio.sleep(0.01)


async def rest(job: Job) -> list[Event]:
    events = [await job.next()]
    while not isinstance(events[-1], Finished | Failed):
        events.append(await job.next())
    return events


async def answered(job: Job) -> str:
    last = (await rest(job))[-1]
    assert isinstance(last, Finished), last
    return last.text


async def started(job: Job) -> list[Event]:
    events = [await job.next()]
    while not isinstance(events[-1], Started):
        assert not isinstance(events[-1], Failed), events[-1]
        events.append(await job.next())
    return events


class Computing(Gated):
    """Notes the thread of each pass, and its number of torch threads."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.threads: list[tuple[int, int]] = []

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        self.threads.append((threading.get_ident(), torch.get_num_threads()))
        return super().row(ids)


def test_the_answers_of_all_pairs_are_computed_in_one_thread(pairs: Pairs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.Gated", Computing)
    pairs.opened = True
    threads = torch.get_num_threads()

    async def work() -> None:
        options = {"a": replace(OPTIONS, threads=threads + 2), "b": OPTIONS}
        jobs = [pairs.ask(name, 3, options=options[name]) for name in "ab"]
        assert await asyncio.gather(*map(answered, jobs)) == ["aaa", "aaa"]
        assert pairs.names == ["a", "b"]
        assert pairs.pool.requests == 2

    run(work())
    passes = {name: model.threads for name, model in pairs.models.items() if isinstance(model, Computing)}
    assert len({ident for each in passes.values() for ident, _ in each}) == 1
    assert {count for _, count in passes["a"]} == {threads + 2}
    assert {count for _, count in passes["b"]} == {threads}


def test_a_pair_answers_between_the_rounds_of_another(pairs: Pairs) -> None:
    async def work() -> None:
        long = pairs.ask("a", 10_000)
        await started(long)
        short = asyncio.create_task(answered(pairs.ask("b", 3)))
        await until(lambda: pairs.loads == ["a", "b"])
        pairs.models["b"].pass_on(3)
        while not short.done():
            pairs.models["a"].pass_on(1)
            assert isinstance(await long.next(), Step)
        assert short.result() == "aaa"
        long.stop()
        pairs.models["a"].pass_on(1)

    run(work())


def test_the_thread_of_an_opening_ends_with_it(pairs: Pairs) -> None:
    """A thread that has loaded a pair keeps a team of OpenMP, which slows all pairs."""
    loading: list[threading.Thread] = []
    pairs.opened = True
    pairs.on_load = lambda: loading.append(threading.current_thread())

    async def work() -> None:
        assert await answered(pairs.ask("a")) == "aa"
        await until(lambda: not loading[0].is_alive())
        assert pairs.names == ["a"]

    run(work())


def test_the_pair_that_was_idle_for_longest_goes(pairs: Pairs) -> None:
    pairs.opened = True
    pairs.total = FOR_ONE + WEIGHTS

    async def work() -> None:
        for name in "abac":
            assert await answered(pairs.ask(name)) == "aa"
        await until(lambda: pairs.names == ["a", "c"])
        assert await answered(pairs.ask("b")) == "aa"
        await until(lambda: sorted(pairs.names) == ["b", "c"])

    run(work())
    assert pairs.loads == ["a", "b", "c", "b"]


def test_one_that_is_answering_is_waited_for(pairs: Pairs) -> None:
    pairs.total = FOR_ONE

    async def work() -> None:
        first = pairs.ask("a")
        await started(first)
        second, third = pairs.ask("b"), pairs.ask("a")
        events = [await second.next()]
        while events[-1] != Progress("waiting for the memory of a, which is answering"):
            events.append(await second.next())
        pairs.models["a"].pass_on(1)
        assert isinstance(await first.next(), Step)
        assert pairs.names == ["a", "b"]
        assert pairs.loads == ["a"]
        pairs.models["a"].pass_on(1)
        assert await answered(first) == "aa"
        await started(second)
        pairs.models["b"].pass_on(2)
        assert await answered(second) == "aa"
        await started(third)
        pairs.models["a"].pass_on(2)
        assert await answered(third) == "aa"

    run(work())
    assert pairs.loads == ["a", "b", "a"]


def test_nothing_goes_for_a_pair_that_would_not_fit_even_then(pairs: Pairs) -> None:
    pairs.opened = True

    async def work() -> None:
        await answered(pairs.ask("a"))
        pairs.total = WEIGHTS // 2
        last = (await rest(pairs.ask("b")))[-1]
        assert isinstance(last, Failed)
        assert isinstance(last.error, OutOfMemory)
        await until(lambda: pairs.names == ["a"])

    run(work())


def test_memory_of_a_pair_that_went_is_free(pairs: Pairs) -> None:
    pairs.opened = True
    pairs.total = FOR_ONE
    size = 400 << 20

    async def work() -> None:
        await answered(pairs.ask("a"))
        gc.collect()
        before = psutil.Process().memory_info().rss
        # As much of it in pieces that the C library does not give back by itself.
        pairs.models["a"].weights = [torch.ones(size // 3200 // 4) for _ in range(3200)]  # type: ignore[attr-defined]
        del pairs.models["a"]
        assert psutil.Process().memory_info().rss > before + size * 0.9
        await answered(pairs.ask("b"))
        assert psutil.Process().memory_info().rss < before + size * 0.1

    run(work())


def test_a_pair_that_cannot_be_opened_leaves_nothing(pairs: Pairs) -> None:
    pairs.opened = True

    async def work() -> None:
        last = (await rest(pairs.ask("broken")))[-1]
        assert isinstance(last, Failed)
        assert last.error.message == "it is broken"
        await until(lambda: pairs.names == [])
        assert await answered(pairs.ask("a")) == "aa"
        assert list(pairs.pool._workers) == [PairKey("a", "none", OPTIONS)]

    run(work())


def test_callers_take_turns_and_see_how_many_come_before_them(pairs: Pairs) -> None:
    async def work() -> None:
        first = pairs.ask("a", 1, "greedy")
        await started(first)
        greedy = [pairs.ask("a", 1, "greedy") for _ in range(3)]
        modest = pairs.ask("a", 1, "modest")
        pairs.models["a"].pass_on(5)

        async def told(job: Job) -> list[int]:
            return [int(event.what.split()[2]) for event in await rest(job) if isinstance(event, Progress)]

        counts = await asyncio.gather(*map(told, [first, *greedy, modest]))
        assert pairs.turns == ["greedy", "modest", "greedy", "greedy", "greedy"]
        assert counts == [[], [1, 2, 1], [2, 3, 2, 1], [3, 4, 3, 2, 1], [1]]

        begun = pairs.ask("a", 1, "greedy")
        await started(begun)
        leaving, staying = pairs.ask("a", 1, "one"), pairs.ask("a", 1, "two")
        leaving.cancel()
        assert [await staying.next() for _ in range(2)] == [
            Progress("waiting for 2 other answers"),
            Progress("waiting for 1 other answer"),
        ]
        pairs.models["a"].pass_on(2)

    run(work())


def test_stopping_ends_the_answer_after_its_round(pairs: Pairs) -> None:
    async def work() -> None:
        first = pairs.ask("a", 1000)
        await started(first)
        waiting = pairs.ask("a")
        waiting.stop()
        (*_, last) = await rest(waiting)
        assert isinstance(last, Failed)
        pairs.models["a"].pass_on(1)
        await first.next()
        first.stop()
        pairs.models["a"].pass_on(2)
        (*_, last) = await rest(first)
        assert isinstance(last, Finished)
        assert last.reason == "interrupted"
        assert 1 <= len(last.text) <= 2
        pairs.models["a"].pass_on(2)
        assert await answered(pairs.ask("a")) == "aa"

    run(work())


def test_stopping_while_it_loads_ends_it_too(pairs: Pairs) -> None:
    async def work() -> None:
        job = pairs.ask("a")
        job.stop()
        (*_, last) = await rest(job)
        assert isinstance(last, Failed)
        await until(lambda: pairs.names == [])

    run(work())


def test_after_the_end_nothing_is_taken(pairs: Pairs) -> None:
    async def work() -> None:
        pairs.pool.close()
        with pytest.raises(ApiError, match="ending"):
            pairs.ask("a")

    run(work())


class Panic(BaseException):
    """As pyo3's PanicException: no Exception."""


def test_no_exception_ends_the_worker(pairs: Pairs) -> None:
    """A panic of the tokenizer's Rust code fails its answer alone. A thread that died is replaced."""
    pairs.opened = True

    def panic(_: Session) -> Iterator[Event]:
        raise Panic("a regex gave up")

    async def work() -> None:
        worker = pairs.pool.worker(PairKey("a", "none", OPTIONS))
        assert await answered(pairs.ask("a")) == "aa"
        for _ in range(2):
            last = (await rest(worker.ask(panic, "me")))[-1]
            assert isinstance(last, Failed)
            assert last.error.message == "unexpected Panic"
            assert await answered(pairs.ask("a")) == "aa"
        dead = threading.Thread(target=lambda: None)
        dead.start()
        dead.join()
        pairs.pool.close_changed(PairKey("a", "none", OPTIONS))
        with worker._changed:
            worker._changed.notify_all()
        await until(lambda: worker._thread is None)
        worker._thread = dead
        assert await answered(pairs.ask("a")) == "aa"

    run(work())


def test_two_pairs_do_not_wait_for_each_other(pairs: Pairs) -> None:
    """One has to go for the other while it waits to be loaded again itself, because its files have changed."""
    pairs.opened = True
    pairs.total = FOR_ONE
    begins, waits = threading.Event(), threading.Event()

    def changed(session: Session) -> Iterator[Event]:
        begins.set()
        assert waits.wait(LONG)  # until the other pair evicts this one, which runs
        pairs.pool.close_changed(PairKey("a", "none", OPTIONS))
        yield from session.open()
        yield from session.generate("hello", max_new_tokens=2)

    async def work() -> None:
        assert await answered(pairs.ask("a")) == "aa"
        first = pairs.pool.worker(PairKey("a", "none", OPTIONS)).ask(changed, "me")
        await until(begins.is_set)
        second = pairs.ask("b")
        while await second.next() != Progress("waiting for the memory of a, which is answering"):
            pass
        waits.set()
        assert await answered(second) == "aa"
        assert await answered(first) == "aa"

    run(work())


def test_an_answer_that_hangs_after_its_caller_went_is_idle(pairs: Pairs) -> None:
    async def work() -> None:
        job = pairs.ask("a")
        await started(job)
        pairs.models["a"].wait_for_a_pass()
        assert pairs.pool.idle_s() < 0.1
        job.cancel()
        await asyncio.sleep(0.2)
        assert pairs.pool.running == 1
        assert pairs.pool.idle_s() >= 0.2
        pairs.models["a"].pass_on(2)

    run(work())
