"""`org/name:file.gguf`: one GGUF file of a repository."""

from pathlib import Path

import pytest

from specgen.core import ModelRef
from specgen.errors import BadFile, ModelNotFound, NotCached, UnsupportedModel
from specgen.models.pins import pins
from tests.hub_server import CARD, HubServer, serve_hub
from tests.models.pulling import small, whole

hub = pytest.fixture(serve_hub)


@pytest.fixture
def folder(hub: HubServer, tmp_path: Path) -> Path:
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("m-Q4_0.gguf", "m-Q8_0.gguf", "m-F32-00001-of-00002.gguf", "m-F32-00002-of-00002.gguf"):
        (folder / name).write_bytes(b"GGUF" + name.encode() * 10_000)
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
    (folder / "no.gguf").write_bytes(b"something else")
    hub.publish("org/m", folder)
    with pytest.raises(BadFile, match="is not a GGUF file"):
        small("org/m:no.gguf")
