"""Files: atomic replacement, bounded reading, strict JSON, and the user's folders."""

import os
import stat
from pathlib import Path

import pytest

from specgen.core import files
from specgen.core.errors import BadFile
from specgen.core.files import canonical_path, parse_json, read_json, read_object, read_small, replace_file


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_file_is_written_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file"
    replace_file(path, "lone \ud800 ü")
    assert path.read_bytes() == b"lone \\ud800 \xc3\xbc"
    assert [each.name for each in path.parent.iterdir()] == ["file"]


def test_a_replaced_file_keeps_its_mode_and_its_link(tmp_path: Path) -> None:
    path, link = tmp_path / "file", tmp_path / "link"
    path.write_text("old")
    path.chmod(0o640)
    link.symlink_to(path)
    replace_file(link, b"new")
    assert (path.read_text(), mode(path), link.is_symlink()) == ("new", 0o640, True)
    replace_file(path, "secret", private=True)
    assert mode(path) == 0o600


def test_a_private_file_is_never_readable_by_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(stat.S_IMODE(os.fstat(descriptor).st_mode)))
    replace_file(tmp_path / "file", "x", private=True)
    assert seen == [0o600]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "file"
    path.write_text("old")

    def fail(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match="No space"):
        replace_file(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("make", [lambda path: path.mkdir(), os.mkfifo], ids=["folder", "pipe"])
def test_what_is_not_a_regular_file_is_neither_replaced_nor_read(tmp_path: Path, make: object) -> None:
    path = tmp_path / "odd"
    make(path)  # type: ignore[operator]
    with pytest.raises(OSError):
        replace_file(path, "x")
    with pytest.raises(OSError):
        read_small(path)


def test_reading_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"12345")
    assert read_small(path, 5) == b"12345"
    with pytest.raises(OSError, match="larger than 4 bytes"):
        read_small(path, 4)
    with pytest.raises(OSError, match="not a regular file"):
        read_small(Path("/dev/zero"))


@pytest.mark.parametrize("text", ["1e999", "[-1e999]", "NaN", '{"a": Infinity}', "[" * 100_000, "1" * 5000, "{"])
def test_json_is_strict(text: str) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_json_reads_finite_numbers() -> None:
    assert parse_json('{"a": [1, -2.5, 1e-400]}') == {"a": [1, -2.5, 0.0]}


def test_a_json_object_or_a_line_that_names_the_file(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    assert read_object(path, hint="h", missing_ok=True) == {}
    for content in (None, b"[]", b"{", b"\xff", b"[" * 100_000):
        if content is not None:
            path.write_bytes(content)
        with pytest.raises(BadFile, match=r"cannot read .*x\.json") as raised:
            read_object(path, hint="h")
        assert raised.value.hint == "h"
    path.write_text('{"limit": [0.0, Infinity]}')
    assert read_json(path) == {"limit": [0.0, float("inf")]}


def test_a_folder_of_an_unknown_user_is_taken_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECGEN_DATA_DIR", "~no-such-user-here/x")
    assert files.data_folder() == Path("~no-such-user-here/x")


def test_every_spelling_of_a_path_has_one_canonical_form(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "real" / "m@x:1").mkdir(parents=True)
    (tmp_path / "real" / "m.gguf").write_bytes(b"GGUF")
    (tmp_path / "linked").symlink_to(tmp_path / "real")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path / "linked")
    folder = tmp_path / "real" / "m@x:1"
    spellings = ["m@x:1", "./m@x:1/", "../real/m@x:1", "../linked/m@x:1", "~/linked/m@x:1", str(folder)]
    assert {canonical_path(spelling) for spelling in spellings} == {folder}
    assert canonical_path("m.gguf") == tmp_path / "real" / "m.gguf"
    assert canonical_path(".") == tmp_path / "real"
    for missing in ("", "./nowhere", "org/name", "~nobody-of-that-name/m", "a" * 5000, "m\0"):
        assert canonical_path(missing) is None


def test_a_link_to_a_file_keeps_its_name(tmp_path: Path) -> None:
    """The hub's cache links model.gguf to a file that is named by its hash."""
    (tmp_path / "blob").write_bytes(b"GGUF")
    (tmp_path / "model.gguf").symlink_to(tmp_path / "blob")
    assert canonical_path(str(tmp_path / "model.gguf")) == tmp_path / "model.gguf"
