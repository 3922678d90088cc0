"""GGUF files by any name, of any version, in parts, and with damaged text."""

import struct
from pathlib import Path

import gguf
import pytest

from specgen.checkpoint.gguf.config import read_config
from specgen.checkpoint.gguf.header import open_header
from specgen.core.errors import BadFile, SpecgenError, UnsupportedModel
from tests import fakes
from tests.gguf_files import add_byte_level, finish
from tests.hub.pulling import small


def write(path: Path, **values: str | int) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    add_byte_level(writer, fakes.backend())
    for name, value in values.items():
        key = name.replace("__", ".")
        (writer.add_string if isinstance(value, str) else writer.add_uint16)(key, value)
    return finish(writer, path).path


@pytest.mark.parametrize("name", ["M.GGUF", f"sha256-{'6a' * 32}", "m"])
def test_a_gguf_file_is_known_by_its_first_bytes(tmp_path: Path, name: str) -> None:
    checkpoint = small(str(write(tmp_path / name)))
    assert checkpoint.is_gguf
    assert checkpoint.config == {}
    assert checkpoint.weight_files == [tmp_path / name]


@pytest.mark.parametrize(
    ("start", "kind", "says"),
    [
        (
            b"GGUF" + struct.pack("<I", 1),
            UnsupportedModel,
            "is a GGUF file of version 1; specgen reads versions 2 and 3",
        ),
        (
            b"GGUF" + struct.pack("<I", 9),
            UnsupportedModel,
            "is a GGUF file of version 9; specgen reads versions 2 and 3",
        ),
        (b"GGUF" + struct.pack(">I", 3), UnsupportedModel, "is a big-endian GGUF file; choose a little-endian file"),
        (b"GGUF", BadFile, "is not a complete GGUF file; download it again"),
        (b"", BadFile, "is not a GGUF file; download it again"),
        (
            b"version https://git-lfs.github.com/spec/v1",
            BadFile,
            "is a Git LFS pointer, not the weights; get",
        ),
    ],
)
def test_a_file_in_another_format_says_which(tmp_path: Path, start: bytes, kind: type[SpecgenError], says: str) -> None:
    (tmp_path / "m.gguf").write_bytes(start + bytes(64) * (len(start) == 8))
    with pytest.raises(kind, match=says):
        small(str(tmp_path / "m.gguf"))


def test_a_renamed_part_of_a_split_file_is_refused(tmp_path: Path) -> None:
    assert small(str(write(tmp_path / "whole.gguf", split__count=1))).is_gguf
    with pytest.raises(UnsupportedModel, match=r"model\.gguf is one of 3 parts; join them"):
        small(str(write(tmp_path / "model.gguf", split__count=3)))


def test_an_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match=r"is an adapter, not a whole model"):
        small(str(write(tmp_path / "m.gguf", general__type="adapter")))


def test_text_that_is_not_utf8_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf", general__description="caf\u00e9")
    data = path.read_bytes()
    path.write_bytes(data.replace("caf\u00e9".encode(), b"caf\xe9\xe9"))
    assert open_header(path).values["general.description"] == "caf\ufffd\ufffd"
    path.write_bytes(data.replace(fakes.END.encode(), b"\xff" * len(fakes.END), 1))
    with pytest.raises(BadFile, match=r"tokenizer.ggml.tokens has text that is not UTF-8; convert the model again"):
        open_header(path).array("tokenizer.ggml.tokens")


def test_an_array_that_ends_early_is_not_read_in_part(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    data = path.read_bytes()
    at = data.index(b"tokenizer.ggml.token_type") + len("tokenizer.ggml.token_type") + 8
    for count in (1 << 20, 1 << 40, (1 << 64) - 1):
        path.write_bytes(data[:at] + struct.pack("<Q", count) + data[at + 8 :])
        with pytest.raises(BadFile, match=r"is not a complete GGUF file"):
            small(str(path))


@pytest.mark.parametrize("at", [8, 16], ids=["tensors", "values"])
def test_counts_beyond_the_file_are_refused(tmp_path: Path, at: int) -> None:
    path = write(tmp_path / "m.gguf")
    data = path.read_bytes()
    path.write_bytes(data[:at] + struct.pack("<Q", 1 << 60) + data[at + 8 :])
    with pytest.raises(BadFile, match=r"is not a complete GGUF file"):
        small(str(path))


@pytest.mark.parametrize("architecture", ["llama", "unheard-of"])
def test_an_impossible_number_of_layers_is_named(tmp_path: Path, architecture: str) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", architecture)
    writer.add_block_count(1_000_000_000)
    path = finish(writer, tmp_path / "m.gguf").path
    says = f"{architecture}.block_count is 1000000000, not a whole number from 1 to 2000"
    with pytest.raises(BadFile, match=says):
        read_config(path)
