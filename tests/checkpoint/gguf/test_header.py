"""GGUF headers, complete and damaged."""

from contextlib import suppress
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

from specgen.checkpoint.gguf.config import read_config
from specgen.checkpoint.gguf.header import open_header
from specgen.checkpoint.gguf.tokenizer import read_tokenizer
from specgen.core.errors import BadFile
from tests import fakes
from tests.gguf_files import add_byte_level, finish


def write(path: Path, **more: Any) -> Path:
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(48)
    writer.add_head_count(4)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_array("odd.numbers", [1.5, -2.0, 0.25])
    writer.add_array("odd.texts", ["", "\u00e9", "a b"])
    add_byte_level(writer, fakes.backend())
    writer.add_tensor("token_embd.weight", np.ones((fakes.VOCAB, 32), dtype=np.float32))
    for name, value in more.items():
        writer.add_tensor(name, value)
    return finish(writer, path).path


def test_arrays_are_read_when_they_are_asked_for(tmp_path: Path) -> None:
    header = open_header(write(tmp_path / "m.gguf"))
    assert header.array("odd.numbers") == [1.5, -2.0, 0.25]
    assert header.array("odd.texts") == ["", "\u00e9", "a b"]
    assert header.lengths["odd.texts"] == 3
    assert "odd.texts" not in header.values
    assert header.values["llama.block_count"] == 2


def test_a_file_that_changed_is_read_again(tmp_path: Path) -> None:
    path = write(tmp_path / "m.gguf")
    assert "extra" not in open_header(path).tensor
    path.unlink()
    write(path, extra=np.ones(4, dtype=np.float32))
    assert "extra" in open_header(path).tensor


def test_the_config_is_that_of_the_hub(tmp_path: Path) -> None:
    assert read_config(write(tmp_path / "m.gguf")) == {
        "model_type": "llama",
        "max_position_embeddings": 64,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "intermediate_size": 48,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "head_dim": 8,
        "rms_norm_eps": pytest.approx(1e-5),
        "vocab_size": fakes.VOCAB,
        "tie_word_embeddings": True,
        "attention_bias": False,
        "mlp_bias": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    }


def test_an_unknown_architecture_is_a_reason(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "mamba")
    assert read_config(finish(writer, tmp_path / "m.gguf").path) == "the GGUF architecture 'mamba'"


def test_a_file_that_is_cut_anywhere_is_one_clear_error(tmp_path: Path) -> None:
    whole = write(tmp_path / "m.gguf").read_bytes()
    for length in (4, 20, 30, 100, 300, 2000, len(whole) // 4, len(whole) // 2, len(whole) - 1):
        path = tmp_path / f"{length}.gguf"
        path.write_bytes(whole[:length])
        for read in (read_config, read_tokenizer):
            with pytest.raises(
                BadFile, match=rf"cannot read .*{length}\.gguf: it is not a complete GGUF file; download"
            ):
                read(path)


def test_a_damaged_byte_never_escapes_as_another_error(tmp_path: Path) -> None:
    whole = bytearray(write(tmp_path / "m.gguf").read_bytes())
    dice = np.random.default_rng(0)
    for number in range(60):
        damaged = bytearray(whole)
        for place in dice.integers(4, 1500, 3):
            damaged[place] = dice.integers(256)
        path = tmp_path / f"{number}.gguf"
        path.write_bytes(damaged)
        for read in (read_config, read_tokenizer):
            with suppress(BadFile):
                read(path)
