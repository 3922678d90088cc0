"""`org/name:file.gguf`: one GGUF file of a repository."""

from pathlib import Path

import gguf
import numpy as np
import pytest

from specgen.checkpoint.checkpoint import fetch_weights, find
from specgen.checkpoint.gguf import remote as gguf_remote
from specgen.checkpoint.gguf.header import open_header
from specgen.checkpoint.summary import summarize
from specgen.core.errors import AccessDenied, BadFile, DownloadFailed, ModelNotFound, NotCached, UnsupportedModel
from specgen.core.events import Notice, Progress
from specgen.core.progress import Meter, follow
from specgen.core.types import ModelRef
from specgen.hub.pins import pins
from tests.gguf_files import finish
from tests.hub.pulling import small, whole
from tests.hub_server import CARD, HubServer, serve_hub

hub = pytest.fixture(serve_hub)
WEIGHTS = 1_000_000
"""Bytes of the weights in a file of `write`; its header takes 40 KB."""


def write(path: Path) -> None:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(2)
    writer.add_license("mit")
    writer.add_token_list([f"{path.name} {number}" for number in range(1500)])
    writer.add_tensor("token_embd.weight", np.ones((WEIGHTS // 400, 100), dtype=np.float32))
    writer.add_tensor("rope_freqs.weight", np.arange(1, 5, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def ranges(hub: HubServer) -> list[tuple[int, int]]:
    """The first and last byte of each requested range; (0, -1) is a whole file."""
    asked = [(request.range or "bytes=0--1").removeprefix("bytes=") for request in hub.asked("cdn", "GET")]
    return [(int(first), int(last)) for first, _, last in (text.partition("-") for text in asked)]


def left_behind(hub: HubServer) -> list[str]:
    """The cached bytes of the file's first half, or of its weights."""
    files = (path for path in hub.cache.rglob("*") if path.is_file() and not path.is_symlink())
    return [path.name for path in files if path.suffix == ".incomplete" or path.stat().st_blocks * 512 > WEIGHTS // 2]


@pytest.fixture
def folder(hub: HubServer, tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf", "m-F32-00001-of-00002.gguf", "m-F32-00002-of-00002.gguf"):
        write(folder / name)
    (folder / "README.md").write_text(CARD)
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"pickle")
    hub.publish("org/m", folder)
    return folder


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("org/m:a.gguf", ("org/m", None, "a.gguf")),
        ("org/m@v1:sub/a.gguf", ("org/m", "v1", "sub/a.gguf")),
        ("m:a.gguf", ("m", None, "a.gguf")),
        ("org/m@v1", ("org/m", "v1", None)),
        ("./m:a.gguf", ("./m:a.gguf", None, None)),
        ("a@b.gguf", ("a@b.gguf", None, None)),
        ("dir/sub/m:a.gguf", ("dir/sub/m:a.gguf", None, None)),
        ("C:\\m\\a.gguf", ("C:\\m\\a.gguf", None, None)),
        ("org/m:Q4", ("org/m:Q4", None, None)),
    ],
)
def test_names(text: str, parts: tuple[str, str | None, str | None]) -> None:
    ref = ModelRef.parse(text)
    assert (ref.source, ref.revision, ref.file) == parts
    assert str(ref) == text
    assert ModelRef.at(ref.name, ref.revision) == ref


def test_the_file_and_the_card_are_all_that_is_downloaded(hub: HubServer, folder: Path) -> None:
    found = whole("org/m:m-Q4_0.gguf")
    assert found.is_gguf
    assert found.path.read_bytes() == (folder / "m-Q4_0.gguf").read_bytes()
    assert found.weight_bytes == found.path.stat().st_size
    assert {path.name for path in found.path.parent.iterdir()} == {"m-Q4_0.gguf", "README.md"}
    hub.requests.clear()
    assert whole("org/m:m-Q4_0.gguf") == found
    assert hub.requests == []
    assert pins()["org/m"].commit == found.commit
    assert whole("org/m@main:m-Q4_0.gguf").path == found.path
    assert whole("org/m:m-Q4_0.gguf", offline=True) == found
    with pytest.raises(NotCached, match=r"org/m:m-Q8_0\.gguf is not complete .* `specgen pull org/m:m-Q8_0"):
        whole("org/m:m-Q8_0.gguf", offline=True)


def test_a_file_that_there_is_not_names_those_that_there_are(hub: HubServer, folder: Path) -> None:
    with pytest.raises(ModelNotFound, match=r"org/m has no file m\.gguf; it has .*m-Q4_0\.gguf, m-Q8_0\.gguf"):
        small("org/m:m.gguf")
    assert not hub.asked("cdn")


def test_a_repository_of_gguf_files_says_how_to_name_one(hub: HubServer, folder: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"name the file \(or another of 4\): org/m:m-F32-00001-of-00002\.gguf"):
        small("org/m")


def test_a_part_is_refused_before_it_is_downloaded(hub: HubServer, folder: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"is one of 2 parts; join them"):
        small("org/m:m-F32-00002-of-00002.gguf")
    assert not hub.asked("cdn")
    with pytest.raises(UnsupportedModel, match=r"is one of 2 parts; join them"):
        small(str(folder / "m-F32-00002-of-00002.gguf"))


def test_a_file_that_is_none(hub: HubServer, folder: Path) -> None:
    (folder / "no.gguf").write_bytes(b"something else" * 500_000)
    (folder / "cut.gguf").write_bytes((folder / "m-Q8_0.gguf").read_bytes()[:20_000])
    hub.publish("org/m", folder)
    for name in ("no.gguf", "cut.gguf"):
        hub.requests.clear()
        with pytest.raises(BadFile, match=f"{name} is not a GGUF file"):
            small(f"org/m:{name}")
        assert len(ranges(hub)) == 1
    assert not list(hub.cache.rglob("headers/*/*"))


# The header alone


@pytest.fixture
def pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gguf_remote, "_FIRST_BYTES", 8192)


def test_the_header_comes_without_the_weights(hub: HubServer, folder: Path, pieces: None) -> None:
    found = small("org/m:m-Q8_0.gguf")
    header = open_header(found.header)
    assert (found.is_gguf, found.is_complete, found.path.exists()) == (True, False, False)
    assert header.array("tokenizer.ggml.tokens")[1499] == "m-Q8_0.gguf 1499"
    assert header.tensor["rope_freqs.weight"].data.tolist() == [1, 2, 3, 4]
    summary = summarize(found)
    assert (summary.layers, summary.licence, summary.parameters, summary.files) == (2, "mit", WEIGHTS // 4 + 4, {})
    assert found.weight_bytes == (folder / "m-Q8_0.gguf").stat().st_size
    *growing, factors = ranges(hub)
    assert growing == [(0, 8191), (8192, 16383), (16384, 32767), (32768, 65535)]
    assert factors[1] - factors[0] == 15
    assert left_behind(hub) == []
    hub.requests.clear()
    assert small("org/m:m-Q8_0.gguf").header == small("org/m:m-Q8_0.gguf", offline=True).header == found.header
    assert ranges(hub) == [], "it is kept"
    with pytest.raises(NotCached, match=r"org/m:m-Q8_0\.gguf is not complete"):
        whole("org/m:m-Q8_0.gguf", offline=True)


def test_a_format_that_is_not_read_costs_one_request(hub: HubServer, folder: Path, pieces: None) -> None:
    old = folder / "m-Q8_0.gguf"
    old.write_bytes(b"GGUF" + bytes([1, 0, 0, 0]) + old.read_bytes()[8:])
    old.rename(folder / "old.gguf")
    hub.publish("org/m", folder)
    with pytest.raises(UnsupportedModel, match=r"org/m:old\.gguf is a GGUF file of version 1; specgen reads versions"):
        small("org/m:old.gguf")
    assert ranges(hub) == [(0, 8191)]


def test_a_renamed_part_is_refused_before_its_weights_come(hub: HubServer, folder: Path, pieces: None) -> None:
    writer = gguf.GGUFWriter(folder / "part.gguf", "llama")
    writer.add_uint16("split.count", 2)
    writer.add_tensor("token_embd.weight", np.ones((WEIGHTS // 400, 100), dtype=np.float32))
    finish(writer, folder / "part.gguf")
    hub.publish("org/m", folder)
    with pytest.raises(UnsupportedModel, match=r"part\.gguf is one of 2 parts"):
        small("org/m:part.gguf")
    assert left_behind(hub) == []


def test_the_header_goes_when_the_file_is_here(hub: HubServer, folder: Path) -> None:
    found = small("org/m:m-Q8_0.gguf")
    assert found.header != found.path
    assert whole("org/m:m-Q8_0.gguf").header == found.path
    assert not list(hub.cache.rglob("headers/*/*"))


def test_a_cut_in_the_header_goes_on_within_the_piece(hub: HubServer, folder: Path) -> None:
    hub.cuts["m-Q8_0.gguf"] = 1
    found = small("org/m:m-Q8_0.gguf")
    (start, end), (again, same_end) = ranges(hub)
    assert start < again < end == same_end
    assert open_header(found.header).array("tokenizer.ggml.tokens")[1499] == "m-Q8_0.gguf 1499"


def test_a_hub_that_stays_away_leaves_nothing_of_the_header(
    hub: HubServer, folder: Path, pieces: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Meter, "pause", lambda *_: None)
    hub.cuts["m-Q8_0.gguf"], hub.busy["m-Q8_0.gguf"] = 1, 99
    with pytest.raises(DownloadFailed, match="answered 503 for org/m:m-Q8_0"):
        small("org/m:m-Q8_0.gguf")
    assert (left_behind(hub), list(hub.cache.rglob("headers/*/*"))) == ([], [])


def test_closing_stops_the_header(hub: HubServer, folder: Path) -> None:
    hub.stalled.add("m-Q8_0.gguf")

    def interrupt(event: object) -> None:
        if isinstance(event, Progress) and event.what == "the header of org/m:m-Q8_0.gguf" and event.done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        follow(find(ModelRef.parse("org/m:m-Q8_0.gguf"), offline=False), interrupt)
    assert not list(hub.cache.rglob("headers/*/*"))


def test_gated_files_tell_nothing(hub: HubServer, folder: Path) -> None:
    hub.repositories["org/m"].gated = True
    with pytest.raises(AccessDenied, match=r"org/m:m-Q8_0\.gguf is gated; accept its terms at"):
        small("org/m:m-Q8_0.gguf")


def test_terms_are_named_between_the_header_and_the_weights(hub: HubServer, folder: Path) -> None:
    (folder / "README.md").write_text(CARD.replace("apache-2.0", "cc-by-nc-4.0"))
    hub.publish("org/m", folder)
    told: list[object] = []
    small("org/m:m-Q8_0.gguf", events=told)
    assert [event.text for event in told if isinstance(event, Notice)] == [
        f"org/m is not for commercial use: its licence is cc-by-nc-4.0, see {hub.url}/org/m"
    ]


def test_a_mirror_that_sends_whole_files_only(hub: HubServer, folder: Path, pieces: None) -> None:
    hub.resumes = False
    told: list[object] = []
    assert small("org/m:m-Q8_0.gguf", events=told).is_complete
    text = f"{hub.url} sends no parts of files: downloading all of org/m:m-Q8_0.gguf before it is checked"
    assert Notice(text) in told


def test_a_header_that_was_damaged_on_its_way_is_found_out(hub: HubServer, folder: Path) -> None:
    found = small("org/m:m-Q8_0.gguf")
    content = found.header.read_bytes()
    found.header.write_bytes(content.replace(b"m-Q8_0.gguf 700", b"m-Q8_0.gguf 70?"))
    with pytest.raises(BadFile, match=r"the header of org/m:m-Q8_0\.gguf arrived damaged; run it again"):
        follow(fetch_weights(found, offline=False), [].append)
    assert whole("org/m:m-Q8_0.gguf").is_complete


def test_a_kept_header_that_cannot_be_read_is_fetched_again(hub: HubServer, folder: Path) -> None:
    found = small("org/m:m-Q8_0.gguf")
    found.header.write_bytes(b"GGUF" + bytes(found.weight_bytes - 4))
    assert open_header(small("org/m:m-Q8_0.gguf").header).lengths["tokenizer.ggml.tokens"] == 1500
