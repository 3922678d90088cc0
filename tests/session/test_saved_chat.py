"""Saved chats: a saved chat loads unchanged, and other files are refused in one line."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from specgen.core.errors import BadFile
from specgen.core.types import Message, SamplingChoice
from specgen.session.saved_chat import SavedChat, read, write

CHAT = SavedChat(
    target="org/target@" + "a" * 40 + ":m.gguf",
    draft="lookup",
    messages=(Message("system", "be kind"), Message("user", "hi\n日本"), Message("assistant", '"so" \x1b')),
    sampling=SamplingChoice(temperature=0.7, top_k=3, seed=5),
    max_new_tokens=30,
    stop=("END",),
    think=False,
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "chat.json"
    write(path, CHAT)
    assert read(path) == CHAT
    assert path.stat().st_mode & 0o777 == 0o600
    data = json.loads(path.read_text(encoding="utf-8"))
    assert data["models"]["target"] == {"source": "org/target", "revision": "a" * 40, "file": "m.gguf"}
    assert [entry.name for entry in tmp_path.iterdir()] == ["chat.json"]


def test_a_gguf_file_of_the_hub_keeps_its_name(tmp_path: Path) -> None:
    chat = replace(CHAT, target=f"org/m@{'a' * 40}:sub/a.gguf", draft="org/m:b.gguf")
    write(tmp_path / "chat.json", chat)
    assert read(tmp_path / "chat.json") == chat


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="cannot save"):
        write(tmp_path / "no" / "chat.json", CHAT)
    (tmp_path / "folder").mkdir()
    with pytest.raises(BadFile, match="cannot save"):
        write(tmp_path / "folder", CHAT)
    assert [entry.name for entry in tmp_path.iterdir()] == ["folder"]


def changed(path: Path, **fields: Any) -> Path:
    write(path, CHAT)
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | fields), encoding="utf-8")
    return path


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadFile, match="newer specgen"):
        read(changed(tmp_path / "chat.json", version=2, messages="otherwise"))


@pytest.mark.parametrize(
    "fields",
    [
        {"version": None},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "content": 3}]},
        {"messages": [{"role": "tool", "content": "x"}]},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": "x"}, {"role": "user", "content": "x"}]},
        {"messages": 3},
        {"models": {}},
        {"stop": [1]},
    ],
)
def test_a_damaged_file_is_refused(tmp_path: Path, fields: dict[str, Any]) -> None:
    with pytest.raises(BadFile, match="not a saved chat"):
        read(changed(tmp_path / "chat.json", **fields))


@pytest.mark.parametrize(
    ("fields", "key"),
    [
        ({"sampling": {"seed": "x"}}, "seed"),
        ({"sampling": {"temperature": -1}}, "temperature"),
        ({"sampling": {"top_k": 2.5}}, "top_k"),
        ({"sampling": {"top_p": True}}, "top_p"),
        ({"max_new_tokens": 2.5}, "max_new_tokens"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
    ],
)
def test_a_number_out_of_range_is_named_with_the_file(tmp_path: Path, fields: dict[str, Any], key: str) -> None:
    with pytest.raises(BadFile, match=rf"chat\.json: {key} cannot be .* it takes "):
        read(changed(tmp_path / "chat.json", **fields))


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b'{"version"', b"\xff\xfe", b"[1e999]", b"[NaN]", b"[" * 100_000]
)
def test_what_is_no_chat_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "chat.json").write_bytes(content)
    with pytest.raises(BadFile, match="not a saved chat"):
        read(tmp_path / "chat.json")
    with pytest.raises(BadFile, match="cannot read"):
        read(tmp_path / "none.json")
