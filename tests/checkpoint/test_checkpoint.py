"""Models on disk: folders, .gguf files, and names of neither."""

import json
import subprocess
import sys
from pathlib import Path

import gguf
import pytest

from specgen.checkpoint.checkpoint import Checkpoint, fetch_weights, find
from specgen.core.errors import BadFile, ModelNotFound, SpecgenError, UnsupportedModel
from specgen.core.progress import follow
from specgen.core.types import ModelRef
from tests.gguf_files import finish
from tests.hub_server import CONFIG, write_model


def get(source: object) -> Checkpoint:
    events: list[object] = []
    checkpoint = follow(find(ModelRef.parse(str(source)), offline=True), events.append)
    checkpoint = follow(fetch_weights(checkpoint, offline=True), events.append)
    assert events == []
    return checkpoint


def test_a_folder_is_a_checkpoint(tmp_path: Path) -> None:
    checkpoint = get(write_model(tmp_path / "m"))
    assert (checkpoint.path, checkpoint.commit, checkpoint.is_gguf) == (tmp_path / "m", None, False)
    assert checkpoint.config == CONFIG
    assert checkpoint.generation_config == {"temperature": 0.5}
    assert checkpoint.weight_files == [tmp_path / "m" / "model.safetensors"]
    assert checkpoint.weight_bytes == (tmp_path / "m" / "model.safetensors").stat().st_size


def test_a_folder_without_a_generation_config(tmp_path: Path) -> None:
    (write_model(tmp_path / "m") / "generation_config.json").unlink()
    assert get(tmp_path / "m").generation_config == {}


def test_shards_are_those_of_the_index(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    (folder / "consolidated.safetensors").write_bytes(b"another format of the same weights")
    names = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    assert [path.name for path in get(folder).weight_files] == names


def test_a_single_file_comes_before_an_index(tmp_path: Path) -> None:
    folder = write_model(write_model(tmp_path / "m", shards=2))
    assert [path.name for path in get(folder).weight_files] == ["model.safetensors"]


def test_a_name_with_an_at_sign_or_a_tilde_is_still_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m@2")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert get("~/m@2").path == tmp_path / "m@2"


def test_a_folder_that_exists_wins_over_a_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "org" / "name")
    monkeypatch.chdir(tmp_path)
    assert get("org/name").commit is None


def test_a_gguf_file_is_a_checkpoint(tmp_path: Path) -> None:
    file = finish(gguf.GGUFWriter(tmp_path / "m.gguf", "llama"), tmp_path / "m.gguf").path
    checkpoint = get(file)
    assert checkpoint.is_gguf
    assert (checkpoint.config, checkpoint.generation_config) == ({}, {})
    assert (checkpoint.weight_files, checkpoint.weight_bytes) == ([file], file.stat().st_size)


def test_every_spelling_of_a_path_is_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_model(tmp_path / "m")
    (tmp_path / "link").symlink_to(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    names = ("m", "./m", "./m/", "m/../m", "~/m", str(tmp_path / "m"), "link/m")
    assert {get(name).ref for name in names} == {ModelRef(str(tmp_path / "m"))}


def test_a_file_of_the_hub_may_have_its_suffix_in_capitals() -> None:
    assert ModelRef.parse("org/name@v1:M.GGUF") == ModelRef("org/name", "v1", "M.GGUF")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("./nowhere", "there is no folder ./nowhere"),
        ("/nowhere/m.gguf", "there is no file /nowhere/m.gguf"),
        ("m.gguf", "there is no file m.gguf"),
        ("a/b/c", "there is no folder a/b/c"),
        ("what is this", "'what is this' is neither an existing path nor a hub id"),
        ("org/na me", "neither an existing path nor a hub id"),
        ("bundled:nope", "no model bundled:nope comes with specgen"),
        ("a--b", "neither an existing path nor a hub id"),
        ("", "neither an existing path nor a hub id"),
    ],
)
def test_a_text_that_names_nothing(source: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ModelNotFound) as caught:
        get(source)
    assert says in caught.value.message
    assert caught.value.hint


def without_config(folder: Path) -> None:
    (folder / "config.json").unlink()


def pickles_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def gguf_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "q4.gguf")


def adapter_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text("{}")


def tensorflow_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "tf_model.h5")


def flax_only(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "flax_model.msgpack")


def no_weights(folder: Path) -> None:
    (folder / "model.safetensors").unlink()


def missing_shard(folder: Path) -> None:
    (write_model(folder, shards=2) / "model.safetensors").unlink()
    (folder / "model-00002-of-00002.safetensors").unlink()


def outside_index(folder: Path) -> None:
    no_weights(folder)
    index = {"weight_map": {"a": "../other/model.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def broken_config(folder: Path) -> None:
    (folder / "config.json").write_text("{")


def listed_config(folder: Path) -> None:
    (folder / "config.json").write_text("[]")


def truncated(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])


def empty(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"")


def pointer(folder: Path) -> None:
    (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")


@pytest.mark.parametrize(
    ("damage", "kind", "says"),
    [
        (without_config, UnsupportedModel, "has no config.json"),
        (pickles_only, UnsupportedModel, "pickle weights only"),
        (gguf_only, UnsupportedModel, "GGUF weights only"),
        (adapter_only, UnsupportedModel, "is an adapter"),
        (tensorflow_only, UnsupportedModel, "weights of TensorFlow only"),
        (flax_only, UnsupportedModel, "weights of Flax only"),
        (no_weights, UnsupportedModel, "has no model.safetensors"),
        (missing_shard, ModelNotFound, "model-00002-of-00002.safetensors is missing"),
        (outside_index, BadFile, "model.safetensors.index.json names no weight files"),
        (broken_config, BadFile, "config.json: it is not JSON"),
        (listed_config, BadFile, "config.json: it is not a JSON object"),
        (truncated, BadFile, "model.safetensors: it is not a complete safetensors file"),
        (empty, BadFile, "model.safetensors: it is not a complete safetensors file"),
        (pointer, BadFile, "model.safetensors: it is a Git LFS pointer"),
    ],
)
def test_a_folder_that_cannot_be_loaded(damage: object, kind: type[SpecgenError], says: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    damage(folder)  # type: ignore[operator]
    with pytest.raises(kind) as caught:
        _ = get(folder).config
    assert says in caught.value.message
    assert str(folder) in caught.value.message
    assert caught.value.hint


def test_a_file_that_is_no_gguf(tmp_path: Path) -> None:
    (tmp_path / "m.gguf").write_bytes(b"<html>")
    with pytest.raises(BadFile, match="is not a GGUF file"):
        get(tmp_path / "m.gguf")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(UnsupportedModel, match="is not a GGUF file; give the model's folder"):
        get(tmp_path / "model.safetensors")


def test_a_local_model_needs_no_huggingface_hub(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "m")
    code = f"""
import sys
from specgen.core.types import ModelRef
from specgen.checkpoint.checkpoint import fetch_weights, find
from specgen.core.progress import follow
checkpoint = follow(find(ModelRef.parse({str(folder)!r}), offline=False), print)
follow(fetch_weights(checkpoint, offline=False), print)
print(checkpoint.weight_bytes > 0, sorted({{"huggingface_hub", "torch", "rich"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("True []\n", "")
