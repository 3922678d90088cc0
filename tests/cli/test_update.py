"""Pins: pull --revision, update and rollback, and what later runs use."""

import io
import json
from pathlib import Path

import gguf
import numpy as np
import pytest

from tests.cli.command import Run, Terminal
from tests.fakes import END, backend
from tests.gguf_files import add_byte_level, finish
from tests.hub_server import CARD, HubServer, serve_hub, write_model

hub = pytest.fixture(serve_hub)


def version(folder: Path, size: int, licence: str = "apache-2.0", cut: int = 0) -> Path:
    """A model whose tokenizer lacks its last `cut` merges."""
    write_model(folder, size=size)
    content = json.loads(backend().to_str())
    content["model"]["merges"] = content["model"]["merges"][: len(content["model"]["merges"]) - cut]
    (folder / "tokenizer.json").write_text(json.dumps(content))
    (folder / "README.md").write_text(CARD.replace("apache-2.0", licence))
    return folder


@pytest.fixture
def commits(hub: HubServer, tmp_path: Path, run: Run) -> list[str]:
    """org/m pulled at its first commit. On the hub, main is at the second one."""
    first = hub.publish("org/m", version(tmp_path / "one", 400_000))
    assert run("pull", "org/m")[0] == 0
    return [first, hub.publish("org/m", version(tmp_path / "two", 800_000, "cc-by-nc-4.0"))]


def in_use(run: Run) -> str:
    """The commit of org/m that a run uses."""
    return str(json.loads(run("show", "org/m", "--json", "--offline")[1])["revision"])


def test_later_runs_use_the_first_commit_and_ask_nobody(hub: HubServer, commits: list[str], run: Run) -> None:
    hub.requests.clear()
    assert run("pull", "org/m")[1].split("\t")[1] == commits[0]
    assert hub.requests == []
    assert run("pull", "org/m@main")[1].split("\t")[1] == commits[1]


def test_update_compares_and_asks(
    hub: HubServer, commits: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, err = run("update", "org/m")
    assert code == 1
    head, *changes = out.splitlines()
    assert head == f"org/m {commits[0][:8]} -> {commits[1][:8]} (main)"
    assert [line.split() for line in changes] == [
        ["!", "licence", "apache-2.0", "->", "cc-by-nc-4.0", "(not", "for", "commercial", "use)"],
        ["weights", "400,080", "bytes", "->", "800,080", "bytes"],
    ]
    notice, question = err.splitlines()
    assert notice == f"specgen: org/m is not for commercial use: its licence is cc-by-nc-4.0, see {hub.url}/org/m"
    assert question == f"Download 800 kB and use it? [y/N] org/m stays at {commits[0][:8]}."
    assert in_use(run) == commits[0]
    assert not [request for request in hub.asked("cdn") if "two" in request.path]

    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, err = run("update", "org/m")
    assert code == 0
    assert out.endswith(f"org/m is at {commits[1][:8]}; `specgen rollback org/m` goes back to {commits[0][:8]}\n")
    assert in_use(run) == commits[1]


def test_update_names_terms_before_it_asks(
    hub: HubServer, commits: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repositories["org/m"].has_terms = True
    for _ in range(2):  # also when its small files are here already
        monkeypatch.setattr("sys.stdin", Terminal("n\n"))
        notices = run("update", "org/m")[2].splitlines()[:-1]
        assert notices == [
            f"specgen: org/m is not for commercial use: its licence is cc-by-nc-4.0, see {hub.url}/org/m",
            f"specgen: org/m is gated: you are bound by the terms that you accepted at {hub.url}/org/m",
        ]


def test_update_to_what_is_gated_leaves_all_as_it_was(hub: HubServer, commits: list[str], run: Run) -> None:
    hub.repositories["org/m"].gated = True
    code, out, err = run("update", "org/m", "--yes")
    assert (code, out) == (4, "")
    assert err.startswith(f"specgen: org/m@{commits[1]} is gated; accept its terms at {hub.url}/org/m")
    assert in_use(run) == commits[0]
    assert run("pull", "org/m")[0] == 0


def test_update_compares_the_headers_of_gguf_files(hub: HubServer, tmp_path: Path, run: Run) -> None:
    for name, foreign, template in (("one", False, "a"), ("two", False, "b"), ("three", True, "b")):
        (tmp_path / name).mkdir()
        writer = gguf.GGUFWriter(tmp_path / name / "m.gguf", "llama")
        add_byte_level(writer, backend(), template=template)
        writer.add_tensor("weights", np.zeros(100_000, dtype=np.float32))
        finish(writer, tmp_path / name / "m.gguf")
        if foreign:
            file = tmp_path / name / "m.gguf"
            file.write_bytes(file.read_bytes().replace(END.encode(), b"?" * len(END)))
    hub.publish("org/g", tmp_path / "one")
    assert run("pull", "org/g:m.gguf")[0] == 0
    hub.publish("org/g", tmp_path / "two")
    size = (tmp_path / "two" / "m.gguf").stat().st_size
    assert [line.split() for line in run("update", "org/g:m.gguf", "--yes")[1].splitlines()[1:-1]] == [
        ["weights", f"{size:,}", "bytes", "->", "other", "weights", "of", "the", "same", "size"],
        ["chat", "template", "its", "text", "->", "another", "text"],
    ]
    hub.publish("org/g", tmp_path / "three")
    hub.requests.clear()
    out = run("update", "org/g:m.gguf")[1]
    assert "! tokenizer       320 tokens, id 0 '<|end|>' -> 320 tokens, id 0 '???????'" in out
    assert all(request.range for request in hub.asked("cdn", "GET"))


def test_update_in_a_pipe_only_shows(
    hub: HubServer, commits: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = run("update", "org/m")
    assert (code, "licence" in out) == (2, True)
    assert "updating org/m needs a yes; add --yes where stdin is no terminal" in err
    assert in_use(run) == commits[0]


def test_update_names_the_first_token_that_differs(hub: HubServer, tmp_path: Path, run: Run) -> None:
    first = version(tmp_path / "one", 400_000)
    hub.publish("org/m", first)
    run("pull", "org/m")
    second = version(tmp_path / "two", 400_000)
    content = json.loads((second / "tokenizer.json").read_text())
    token = next(token for token, index in content["model"]["vocab"].items() if index == 40)
    content["model"]["vocab"] = {
        f"{name}" if name != token else "☃": i for name, i in content["model"]["vocab"].items()
    }
    content["model"]["merges"] = []
    (second / "tokenizer.json").write_text(json.dumps(content))
    hub.publish("org/m", second)
    out = run("update", "org/m", "--yes")[1]
    assert f"id 40 {token!r} -> " in out
    assert "id 40 '☃'" in out

    third = version(tmp_path / "three", 400_000, cut=1)
    hub.publish("org/m", version(tmp_path / "whole", 400_000))
    run("update", "org/m", "--yes")
    hub.publish("org/m", third)
    assert "the same tokens, split by other rules" in run("update", "org/m", "--yes")[1]


def test_update_says_when_nothing_of_weight_changed(
    hub: HubServer, commits: list[str], tmp_path: Path, run: Run
) -> None:
    run("update", "org/m", "--yes")
    assert run("update", "org/m")[:2] == (0, f"org/m is up to date: {commits[1][:8]} (main)\n")
    third = version(tmp_path / "three", 800_000, "cc-by-nc-4.0")
    (third / "README.md").write_text((third / "README.md").read_text() + "A typo less.\n")
    new = hub.publish("org/m", third)
    code, out, _ = run("update", "org/m", "--yes")
    assert out.splitlines()[1] == "  no change that affects answers"
    assert (code, in_use(run)) == (0, new)


def test_rollback_goes_back_offline_and_again(hub: HubServer, commits: list[str], tmp_path: Path, run: Run) -> None:
    run("update", "org/m", "-y")
    third = hub.publish("org/m", version(tmp_path / "three", 400_004))
    run("update", "org/m", "-y")
    hub.stop()
    assert run("rollback", "org/m") == (0, f"org/m {third[:8]} -> {commits[1][:8]}\n", "")
    assert in_use(run) == commits[1]
    assert run("rollback", "org/m")[0] == 0
    assert in_use(run) == commits[0]
    code, out, err = run("rollback", "org/m")
    assert (code, out) == (2, "")
    assert err == "specgen: org/m has no former commit; `specgen show` says which one is in use\n"


def test_rm_of_the_newest_commit_goes_back_and_rm_of_all_forgets(
    hub: HubServer, commits: list[str], run: Run, pins_file: Path
) -> None:
    run("update", "org/m", "-y")
    run("rm", "-y", f"org/m@{commits[1][:8]}")
    assert in_use(run) == commits[0]
    run("rm", "-y", "org/m")
    assert "org/m" not in pins_file.read_text()
    assert run("show", "org/m", "--offline")[0] == 5
    assert run("pull", "org/m")[1].split("\t")[1] == commits[1]


@pytest.mark.parametrize("arguments", [["org/m@v1"], ["org/m", "--revision", "v1"]])
def test_pull_of_a_revision_pins_it(
    arguments: list[str], hub: HubServer, commits: list[str], tmp_path: Path, run: Run
) -> None:
    tagged = hub.publish("org/m", version(tmp_path / "tagged", 400_008), "v1")
    code, out, err = run("pull", *arguments)
    assert (code, out.split("\t")[1]) == (0, tagged)
    back = f"`specgen rollback org/m` goes back to {commits[0][:8]}"
    assert err == f"specgen: org/m is at {tagged[:8]} from now on; {back}\n"
    assert in_use(run) == tagged
    assert run("update", "org/m")[1] == f"org/m is up to date: {tagged[:8]} (v1)\n"
    run("update", "org/m@main", "--yes")
    assert in_use(run) == commits[1]


def test_what_makes_no_sense(hub: HubServer, commits: list[str], run: Run, pins_file: Path) -> None:
    assert "no revision v9" in run("pull", "org/m", "--revision", "v9")[2]
    assert run("pull", "org/m", "org/n", "--revision", "v1")[0] == 2
    assert run("update", "org/none")[0] == 3
    assert "get it with `specgen pull org/none`" in run("update", "org/none")[2]
    assert in_use(run) == commits[0]
    pins_file.write_text("[org")
    code, out, err = run("show", "org/m")
    assert (code, out) == (10, "")
    assert f"cannot read {pins_file}: it does not hold pins; correct it, or delete it" in err


def test_update_offline_says_so(hub: HubServer, commits: list[str], run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    code, _, err = run("update", "org/m")
    assert (code, err) == (
        5,
        "specgen: HF_HUB_OFFLINE is set, so the hub cannot be asked for the commit of org/m@main; unset it\n",
    )


def test_an_update_that_breaks_off_changes_nothing(hub: HubServer, commits: list[str], run: Run) -> None:
    hub.busy["model.safetensors"] = 99
    assert run("update", "org/m", "--yes")[0] == 6
    assert in_use(run) == commits[0]
    assert run("pull", "--offline", "org/m")[0] == 0


def test_a_folder_for_settings_that_cannot_be_written(
    hub: HubServer, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.publish("org/m", version(tmp_path / "one", 400_000), "v1")
    hub.publish("org/m", version(tmp_path / "one", 400_000))
    (tmp_path / "a-file").write_text("")
    monkeypatch.setattr("specgen.hub.pins.file", lambda: tmp_path / "a-file" / "pins.toml")
    assert run("pull", "org/m")[0::2] == (0, "")
    code, _, err = run("pull", "org/m@v1")
    assert code == 10
    assert "cannot write" in err


def test_list_and_show_say_which_commit_is_in_use(hub: HubServer, commits: list[str], run: Run) -> None:
    run("update", "org/m", "-y")
    [row] = [line for line in run("list")[1].splitlines() if line.startswith("org/m")]
    assert f"{commits[1][:8]} (main, in use)" in row
    assert commits[0][:8] in row
    shown = json.loads(run("show", "org/m", "--json")[1])
    assert (shown["pinned"], shown["former"]) == (True, [commits[0]])
    assert f"former          {commits[0][:8]}\n" in run("show", "org/m")[1]
