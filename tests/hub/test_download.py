"""Downloads that go wrong: cuts, damage, full and read-only disks, killed and parallel processes, mirrors."""

import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from specgen.checkpoint.checkpoint import fetch_all, fetch_weights
from specgen.core.errors import AccessDenied, DownloadFailed, NotCached
from specgen.core.events import Notice, Progress
from specgen.core.progress import Meter, follow
from specgen.hub import download as transfer
from tests.checkpoint.gguf.test_remote import write as write_gguf
from tests.hub.pulling import names, small, whole
from tests.hub_server import HubServer, half_downloaded, serve_hub, write_model

hub = pytest.fixture(serve_hub)
WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_model(tmp_path / "m")


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits between tries, recorded instead of slept."""
    made: list[float] = []
    monkeypatch.setattr(transfer, "RETRY_WAITS_S", (1.0, 2.0, 4.0))
    monkeypatch.setattr(Meter, "pause", lambda _, seconds: made.append(seconds))
    return made


def blobs(hub: HubServer) -> list[Path]:
    return [path for path in hub.cache.glob("models--*/blobs/*") if path.stat().st_size > 50_000]


def starts(hub: HubServer) -> list[int]:
    """The first byte of each request for the weights."""
    return [int((request.range or "bytes=0-")[6:-1]) for request in hub.asked("cdn", "GET")]


def expire(hub: HubServer) -> None:
    """Expire the URLs of large files that the hub has given so far."""
    hub.signature = f"{hub.signature}1"


# Cuts


def test_the_waits_grow_while_nothing_comes_and_begin_again_after_a_byte(
    hub: HubServer, folder: Path, waits: list[float]
) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.cuts[WEIGHTS] = 2  # each of them after half of what was left
    hub.busy[WEIGHTS] = 2
    follow(fetch_weights(checkpoint, offline=False), [].append)
    assert waits == [1.0, 2.0, 1.0, 1.0]
    assert starts(hub)[:3] == [0, 0, 0]
    assert 0 < starts(hub)[3] < starts(hub)[4]
    assert (checkpoint.path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


def test_a_hub_that_stays_away_is_said_and_given_up(hub: HubServer, folder: Path, waits: list[float]) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.busy[WEIGHTS] = 99
    events: list[object] = []
    with pytest.raises(DownloadFailed, match=r"answered 503 for org/m"):
        follow(fetch_weights(checkpoint, offline=False), events.append)
    assert waits == [1.0, 2.0, 4.0]
    assert [event for event in events if isinstance(event, Notice)] in (
        [],  # the download ended before the first look
        [Notice(f"the connection to {hub.url} broke off; trying again for a minute")],
    )
    assert blobs(hub) == []


def test_trouble_is_told_while_it_lasts(hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.busy[WEIGHTS] = 1
    monkeypatch.setattr(transfer, "RETRY_WAITS_S", (4.0,))
    monkeypatch.setattr(Meter, "pause", lambda _, __: time.sleep(0.5))
    events: list[object] = []
    follow(fetch_weights(checkpoint, offline=False), events.append)
    assert Notice(f"the connection to {hub.url} broke off; trying again for a minute") in events


def test_what_will_not_pass_is_not_waited_for(hub: HubServer, folder: Path, waits: list[float]) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    (folder / WEIGHTS).rename(folder / "elsewhere")
    with pytest.raises(Exception, match="a file that the hub lists is missing"):
        follow(fetch_weights(checkpoint, offline=False), [].append)
    assert waits == []


def test_a_server_that_cannot_resume_starts_again(
    hub: HubServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.cuts[WEIGHTS], hub.resumes = 1, False
    counted: list[int] = []
    monkeypatch.setattr(Meter, "add", lambda _, count: counted.append(count))
    follow(fetch_weights(checkpoint, offline=False), [].append)
    assert (checkpoint.path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert sum(counted) == checkpoint.weight_bytes  # no byte counts twice
    assert min(counted) < 0


def test_an_address_whose_time_is_over_is_renewed(hub: HubServer, folder: Path, waits: list[float]) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.cuts[WEIGHTS], hub.after_cut = 2, lambda: expire(hub)
    follow(fetch_weights(checkpoint, offline=False), [].append)
    assert (checkpoint.path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    first, refused, second, refused_again, third = starts(hub)
    assert (first, refused, refused_again) == (0, second, third)
    assert 0 < second < third, "what is here is not asked for again"
    assert waits == [1.0, 1.0], "only the cuts are waited for"


def test_an_address_that_stays_refused_is_given_up(hub: HubServer, folder: Path, waits: list[float]) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.cuts[WEIGHTS], hub.after_cut = 1, lambda: setattr(hub, "signature", None)
    with pytest.raises(AccessDenied, match="the hub refuses org/m to this token"):
        follow(fetch_weights(checkpoint, offline=False), [].append)
    assert len(starts(hub)) == 3
    assert (blobs(hub), WEIGHTS in names(checkpoint)) == ([], False)


def test_a_model_that_becomes_gated_meanwhile_says_so(hub: HubServer, folder: Path, waits: list[float]) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()

    def gate() -> None:
        expire(hub)
        hub.repositories["org/m"].gated = True

    hub.cuts[WEIGHTS], hub.after_cut = 1, gate
    with pytest.raises(AccessDenied, match="org/m is gated; accept its terms at"):
        follow(fetch_weights(checkpoint, offline=False), [].append)


# Damage


def test_a_damaged_file_is_dropped_and_asked_for_once_more(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.garbled[WEIGHTS] = 1
    events: list[object] = []
    follow(fetch_weights(checkpoint, offline=False), events.append)
    assert starts(hub) == [0, 0]
    assert (checkpoint.path / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()
    assert events[-1] == Progress("org/m", checkpoint.weight_bytes, checkpoint.weight_bytes)


def test_a_file_that_is_damaged_twice_never_gets_its_name(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    hub.garbled[WEIGHTS] = 2
    with pytest.raises(DownloadFailed, match=rf"org/m: {WEIGHTS} arrived damaged twice: its SHA-256 is not the one"):
        follow(fetch_weights(checkpoint, offline=False), [].append)
    assert len(starts(hub)) == 2
    assert (blobs(hub), WEIGHTS in names(checkpoint)) == ([], False)
    with pytest.raises(NotCached, match=f"{WEIGHTS} is missing"):
        whole(offline=True)
    assert WEIGHTS in names(whole())


# A pair


def test_a_pair_is_one_download(hub: HubServer, tmp_path: Path) -> None:
    hub.publish("org/target", write_model(tmp_path / "t", size=800_000))
    hub.publish("org/draft", write_model(tmp_path / "d", size=400_000))
    pair = [small("org/target"), small("org/draft")]
    total = sum(model.weight_bytes for model in pair)
    events: list[Any] = []
    follow(fetch_all(pair, offline=False), events.append)
    assert {(event.what, event.total) for event in events} == {("org/target and org/draft", total)}
    done = [event.done for event in events]
    assert (done[0], done[-1], done) == (0, total, sorted(done))


def test_a_pair_that_does_not_fit_the_disk_is_not_begun(
    hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("org/target", write_model(tmp_path / "t", size=800_000))
    hub.publish("org/draft", write_model(tmp_path / "d", size=400_000))
    pair = [small("org/target"), small("org/draft")]
    monkeypatch.setattr("shutil.disk_usage", lambda _: shutil._ntuple_diskusage(1 << 30, 0, 1_000_000))  # room for one
    with pytest.raises(DownloadFailed, match=r"org/target and org/draft: 1 MB to download, but .* free some space"):
        follow(fetch_all(pair, offline=False), [].append)
    assert not hub.asked("cdn")


# Killed and parallel processes


def pull(hub: HubServer, *arguments: str) -> "subprocess.Popen[str]":
    command = [sys.executable, "-m", "specgen", "pull", *arguments]
    return subprocess.Popen(command, env=hub.env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_swept(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    hub.stalled.add(WEIGHTS)
    process = pull(hub, "org/m")
    try:
        while half_downloaded(hub) < 190_000:  # the weights, when all small files are here
            assert process.poll() is None
            time.sleep(0.01)
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert len(list(hub.cache.rglob("*.incomplete"))) == 1
    hub.stalled.clear()
    assert WEIGHTS in names(whole())
    assert not list(hub.cache.rglob("*.incomplete"))


def test_what_another_process_downloads_is_no_orphan(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    checkpoint = small()
    other = hub.cache / "models--org--m" / "blobs" / ("a" * 64 + ".01234567.incomplete")
    other.write_bytes(b"half")
    with FileLock(hub.cache / ".locks" / "models--org--m" / ("a" * 64 + ".lock")):
        follow(fetch_weights(checkpoint, offline=False), [].append)
        assert other.exists()
    (checkpoint.path / WEIGHTS).unlink()
    follow(fetch_weights(checkpoint, offline=False), [].append)
    assert not other.exists()


def test_two_processes_at_once_get_one_copy(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    hub.trickling.add(WEIGHTS)
    processes = [pull(hub, "org/m") for _ in range(2)]
    ended = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], ended
    assert ended[0] == ended[1]
    assert len(starts(hub)) == 1
    assert (Path(ended[0][0].split("\t")[2].strip()) / WEIGHTS).read_bytes() == (folder / WEIGHTS).read_bytes()


# A mirror


def test_a_mirror_is_what_hf_endpoint_says(hub: HubServer, folder: Path) -> None:
    hub.publish("org/m", folder)
    hub.prefix = "/mirror/of/it"
    hub.env["HF_ENDPOINT"] = hub.url + "/"
    process = pull(hub, "org/m")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, err, out.split("\t")[0]) == (0, "", "org/m")
    process = pull(hub, "org/none")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (3, "")
    assert err.startswith(f"specgen: there is no model org/none at {hub.url},")


# A cache that cannot be written


@pytest.fixture
def read_only(hub: HubServer) -> Iterator[Callable[[], None]]:
    """Calling the result makes the cache read-only, also for root."""
    locked: list[str] = []
    writes = {"os.mkdir", "os.rename", "os.remove", "os.symlink", "os.link", "os.truncate", "os.chmod", "os.utime"}

    def guard(event: str, arguments: tuple[Any, ...]) -> None:
        if locked and (event in writes or (event == "open" and _writes(arguments))):
            paths = [str(part) for part in arguments[:2] if isinstance(part, str | Path)]
            if any(path.startswith(locked[0]) for path in paths):
                raise OSError(30, "Read-only file system", paths[0])

    sys.addaudithook(guard)  # it stays for good: it does nothing once `locked` is empty
    yield lambda: locked.append(str(hub.cache))
    locked.clear()


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    return bool(flags & 3) or (isinstance(mode, str) and mode not in ("r", "rb"))


def test_a_read_only_cache_serves_what_is_in_it(
    hub: HubServer, folder: Path, read_only: Callable[[], None], pins_file: Path
) -> None:
    hub.publish("org/m", folder)
    before = whole()
    pins_file.unlink()
    hub.publish("org/m", folder, "v2")  # a name that the cache cannot learn
    read_only()
    assert whole("org/m@v2").commit == before.commit
    assert whole() == before
    assert whole("org/m@main").commit == before.commit
    assert whole(offline=True) == before


def test_a_read_only_cache_and_the_headers_of_gguf_files(
    hub: HubServer, tmp_path: Path, read_only: Callable[[], None]
) -> None:
    (tmp_path / "g").mkdir()
    for name in ("a.gguf", "b.gguf"):
        write_gguf(tmp_path / "g" / name)
    hub.publish("org/g", tmp_path / "g")
    kept = small("org/g:a.gguf")
    read_only()
    assert small("org/g:a.gguf") == kept
    with pytest.raises(DownloadFailed, match=rf"cannot write to {hub.cache}; set HF_HOME to a folder"):
        small("org/g:b.gguf")


def test_a_read_only_cache_says_so_when_something_is_missing(
    hub: HubServer, folder: Path, read_only: Callable[[], None]
) -> None:
    hub.publish("org/m", folder)
    small()
    read_only()
    with pytest.raises(DownloadFailed, match=rf"cannot write to {hub.cache}; set HF_HOME to a folder"):
        whole()
