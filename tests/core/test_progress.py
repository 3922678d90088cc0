"""Jobs in threads: one progress for all, stopping, and failures."""

import threading

import pytest

from specgen.core.events import Progress
from specgen.core.progress import Meter, follow, run_jobs


def test_the_bytes_of_all_jobs_are_one_progress_that_ends_with_the_total() -> None:
    events: list[object] = []
    follow(run_jobs("m", 5, 15, [lambda meter: meter.add(4), lambda meter: meter.add(6)]), events.append)
    assert events[0] == Progress("m", 5, 15)
    assert events[-1] == Progress("m", 15, 15)


def test_progress_comes_while_a_job_runs() -> None:
    seen = threading.Event()

    def job(meter: Meter) -> None:
        meter.add(7)
        seen.wait(5)

    reporting = run_jobs("m", 0, 10, [job])
    assert [next(reporting), next(reporting)] == [Progress("m", 0, 10), Progress("m", 7, 10)]
    seen.set()
    assert list(reporting) == [Progress("m", 10, 10)]


def _endless(meter: Meter) -> None:
    while True:
        meter.add(0)
        if meter.stop.wait(0.001):
            meter.add(0)


def test_closing_stops_a_running_job() -> None:
    ended = threading.Event()

    def job(meter: Meter) -> None:
        meter.add(1)
        try:
            _endless(meter)
        finally:
            ended.set()

    reporting = run_jobs("m", 0, 10, [job])
    assert [next(reporting), next(reporting)][-1] == Progress("m", 1, 10)
    reporting.close()
    assert ended.is_set()


def test_the_first_failure_stops_the_others_and_is_raised() -> None:
    def fail(_: Meter) -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        follow(run_jobs("m", 0, 10, [_endless, fail]), lambda _: None)


def test_follow_closes_what_it_follows_when_showing_fails() -> None:
    ended = threading.Event()

    def job(meter: Meter) -> None:
        meter.add(1)
        try:
            _endless(meter)
        finally:
            ended.set()

    def show(event: object) -> None:
        if event != Progress("m", 0, 10):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(run_jobs("m", 0, 10, [job]), show)
    assert ended.is_set()
