"""transformers as a peer, on tiny checkpoints."""

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from specgen.bench.peers import load_peers
from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import UnsupportedModel
from specgen.core.types import Dtype, ModelRef
from tests.fakes import encode

PROMPT = encode("the quick brown fox jumps over the lazy dog and the quick brown")
CPU = torch.device("cpu")


def checkpoint(folder: Path) -> Checkpoint:
    return Checkpoint(ModelRef(str(folder)), folder)


def test_all_three_ways_write_the_text_of_transformers(checkpoints: Any, reference: Any, capfd: Any) -> None:
    folder, draft = checkpoints.target("llama"), checkpoints.draft("llama")
    expected = reference(folder, PROMPT, 20)
    transformers.logging.enable_progress_bar()
    capfd.readouterr()
    peers = load_peers(checkpoint(folder), checkpoint(draft), Dtype.FLOAT32, CPU)
    assert [peer.name for peer in peers] == ["transformers plain", "transformers assisted", "transformers lookup"]
    for peer in peers:
        made = peer.run(PROMPT, 20)
        assert list(made.ids) == expected
        stats = made.stats
        assert (stats.prompt_tokens, stats.generated_tokens) == (len(PROMPT), 20)
        assert 0 < stats.time_to_first_token_s < stats.elapsed_s
        assert stats.rounds < 20 if "assisted" in peer.name else stats.rounds <= 20
    assert capfd.readouterr() == ("", ""), "bars and warnings"


def test_neither_an_end_token_nor_a_recommendation_changes_the_length_or_the_text(
    checkpoints: Any, reference: Any
) -> None:
    plain = reference(checkpoints.target("llama"), PROMPT, 20)
    recommended = {"eos_token_id": plain[3], "do_sample": True, "repetition_penalty": 5.0}
    folder = checkpoints.make("llama-recommends", "llama", generation=recommended)
    (peer, _) = load_peers(checkpoint(folder), None, Dtype.FLOAT32, CPU)
    assert list(peer.run(PROMPT, 20).ids) == plain


def test_a_draft_of_another_width_is_left_out(checkpoints: Any) -> None:
    wider = checkpoints.make("llama-wider", "llama", vocab_size=384)
    peers = load_peers(checkpoint(checkpoints.target("llama")), checkpoint(wider), Dtype.FLOAT32, CPU)
    assert [peer.name for peer in peers] == ["transformers plain", "transformers lookup"]


def test_what_it_cannot_load_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModel, match="the transformers peer cannot load"):
        load_peers(checkpoint(tmp_path), None, Dtype.BFLOAT16, CPU)
    gguf = tmp_path / "model.gguf"
    gguf.write_bytes(b"GGUF")
    with pytest.raises(UnsupportedModel, match=r"cannot read \.gguf files"):
        load_peers(checkpoint(gguf), None, Dtype.BFLOAT16, CPU)
