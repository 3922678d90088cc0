"""llama.cpp as a peer: a program that answers as a llama-server does."""

import sys
from pathlib import Path

import httpx2
import pytest

from specgen.bench.llama_cpp import llama_peers
from specgen.core.errors import BadFile, SpecgenError, UsageError


@pytest.fixture
def binary(tmp_path: Path) -> str:
    program = tmp_path / "llama-server"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{Path(__file__).parent / "llama_server.py"}" "$@"\n')
    program.chmod(0o755)
    for name in ("target", "draft", "broken"):
        (tmp_path / f"{name}.gguf").write_bytes(b"GGUF")
    return str(program)


def test_it_answers_plainly_and_with_its_draft_and_ends_with_us(binary: str, tmp_path: Path) -> None:
    models = [str(tmp_path / "target.gguf"), str(tmp_path / "draft.gguf")]
    with llama_peers(binary, models, 512, 1) as peers:
        assert [(peer.name, peer.measures) for peer in peers] == [
            ("llama.cpp plain", ("plain",)),
            ("llama.cpp draft", ("model", "hybrid")),
        ]
        plain, drafted = (peer.run([5, 6, 7], 11) for peer in peers)
        url = peers[0]._url
    assert plain.ids == drafted.ids == tuple(range(8, 19))
    assert plain.stats.tokens_per_second == pytest.approx(100)
    assert plain.stats.time_to_first_token_s == 0.05
    assert (plain.stats.rounds, drafted.stats.rounds) == (11, 6)
    assert drafted.stats.acceptance_rate == 5 / 22
    with pytest.raises(httpx2.ConnectError):
        httpx2.get(url, trust_env=False)


def test_without_a_draft_there_is_only_plain(binary: str, tmp_path: Path) -> None:
    with llama_peers(binary, [str(tmp_path / "target.gguf")], 512, 1) as peers:
        assert [peer.name for peer in peers] == ["llama.cpp plain"]


def test_what_it_says_when_it_ends_by_itself_is_passed_on(binary: str, tmp_path: Path) -> None:
    with (
        pytest.raises(SpecgenError, match="exited: error: failed to load model"),
        llama_peers(binary, [str(tmp_path / "broken.gguf")], 512, 1),
    ):
        pass


def test_what_is_not_there_is_refused(binary: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a program"), llama_peers(str(tmp_path / "none"), [], 512, 1):
        pass
    with pytest.raises(BadFile, match=r"none\.gguf"), llama_peers(binary, [str(tmp_path / "none.gguf")], 512, 1):
        pass
