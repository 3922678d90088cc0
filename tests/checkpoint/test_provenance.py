"""Provenance: hashes of hub files and local files, and licences."""

import hashlib
from pathlib import Path

import gguf
import numpy as np
import pytest

from specgen.checkpoint import provenance
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.provenance import file_hashes, licence, loaded_model
from specgen.core.types import ModelRef
from specgen.hub.files import is_non_commercial
from tests.hub.pulling import whole
from tests.hub_server import HubServer, serve_hub, write_model

hub = pytest.fixture(serve_hub)


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """The names of the files read for hashing. Hashes of small files are stored on disk too, in a new folder."""
    names: list[str] = []
    digest = hashlib.file_digest
    monkeypatch.setattr(
        "hashlib.file_digest", lambda file, name: (names.append(Path(file.name).name), digest(file, name))[1]
    )
    monkeypatch.setattr(provenance, "_LARGE", 10_000)
    monkeypatch.setattr(provenance, "_hashes_file", lambda: tmp_path / "specgen" / "hashes.json")
    provenance._hash.cache_clear()
    return names


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_model_of_the_hub(hub: HubServer, tmp_path: Path, read: list[str]) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    commit = hub.publish("org/m", folder)
    model = loaded_model(whole())
    assert (model.id, model.revision, model.licence) == ("org/m", commit, "apache-2.0")
    without = {"README.md", "model.safetensors.index.json"}
    assert model.files == {path.name: sha256(path) for path in folder.iterdir() if path.name not in without}
    assert not [name for name in read if "safetensors" in name or len(name) == 64]  # checked when it came


def test_a_local_folder_is_read_once_and_again_when_it_changes(tmp_path: Path, read: list[str]) -> None:
    checkpoint = Checkpoint(ModelRef(str(tmp_path / "m")), write_model(tmp_path / "m"))
    weights = tmp_path / "m" / "model.safetensors"
    assert file_hashes(checkpoint)["model.safetensors"] == sha256(weights)
    provenance._hash.cache_clear()  # as in another process
    assert file_hashes(checkpoint)["model.safetensors"] == sha256(weights)
    assert read.count("model.safetensors") == 1
    write_model(tmp_path / "m", size=400_004)
    assert file_hashes(checkpoint)["model.safetensors"] == sha256(weights)
    assert read.count("model.safetensors") == 2


@pytest.mark.parametrize("content", ["[]", "{", '{"/a": 1}'])
def test_kept_hashes_that_make_no_sense_are_not_used(tmp_path: Path, read: list[str], content: str) -> None:
    (tmp_path / "specgen").mkdir()
    (tmp_path / "specgen" / "hashes.json").write_text(content)
    checkpoint = Checkpoint(ModelRef(str(tmp_path / "m")), write_model(tmp_path / "m"))
    assert file_hashes(checkpoint)["model.safetensors"] == sha256(tmp_path / "m" / "model.safetensors")


def test_a_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "m.gguf"
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_license("mit")
    writer.add_tensor("output.weight", np.zeros((3, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    checkpoint = Checkpoint(ModelRef(str(path)), path)
    assert (licence(checkpoint), file_hashes(checkpoint)) == ("mit", {"m.gguf": sha256(path)})


@pytest.mark.parametrize(
    ("name", "forbidden"),
    [
        (None, False),
        ("apache-2.0", False),
        ("mit", False),
        ("llama3.2", False),
        ("gemma", False),
        ("cc-by-sa-4.0", False),
        ("cc-by-nc-4.0", True),
        ("CC-BY-NC-SA-4.0", True),
        ("qwen-research", True),
        ("Falcon-noncommercial", True),
        ("mistral-ai-non-production", True),
        ("mnpl", True),
        ("mrl", True),
    ],
)
def test_which_licences_forbid_commerce(name: str | None, forbidden: bool) -> None:
    assert is_non_commercial(name) == forbidden
