"""specgen pull, list, show and rm, with stdout and stderr apart."""

import io
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gguf
import numpy as np
import pytest

from specgen.core.progress import follow
from specgen.nn.kernels import panel_file
from specgen.nn.kernels.quantize import Int8Rows, StoredFloats
from tests.cli.command import Run, Terminal
from tests.hub_server import HubServer, half_downloaded, serve_hub, write_model

hub = pytest.fixture(serve_hub)


@pytest.fixture
def commit(hub: HubServer, tmp_path: Path) -> str:
    return hub.publish("org/m", write_model(tmp_path / "m"))


# pull


def test_pull_prints_id_commit_and_path(hub: HubServer, commit: str, tmp_path: Path, run: Run) -> None:
    other = hub.publish("org/other", write_model(tmp_path / "other", shards=2))
    code, out, err = run("pull", "org/m", "org/other", tmp_path / "m")
    assert (code, err) == (0, "")
    first, second, third = (line.split("\t") for line in out.splitlines())
    assert (first[:2], second[:2]) == (["org/m", commit], ["org/other", other])
    assert (Path(first[2]) / "model.safetensors").is_file()
    assert Path(second[2]).is_relative_to(hub.cache)
    assert third == [str(tmp_path / "m"), "-", str(tmp_path / "m")]


def test_pull_says_what_went_wrong_in_one_line(hub: HubServer, commit: str, run: Run) -> None:
    code, out, err = run("pull", "org/m", "org/none")
    assert (code, err.count("\n")) == (3, 1)
    assert err.startswith(f"specgen: there is no model org/none at {hub.url}")
    assert (out, hub.asked("safetensors")) == ("", [])  # before the long download, not after it


def test_pull_offline_checks_the_cache(hub: HubServer, commit: str, run: Run) -> None:
    assert run("pull", "--offline", "org/m")[0] == 5
    run("pull", "org/m")
    hub.requests.clear()
    assert run("pull", "--offline", "org/m")[0::2] == (0, "")
    assert hub.requests == []


def test_pull_says_that_the_cache_is_used(hub: HubServer, commit: str, run: Run) -> None:
    _, before, _ = run("pull", "org/m@main")
    hub.failing = 502
    code, out, err = run("pull", "org/m@main")
    assert (code, out) == (0, before)
    assert err == f"specgen: {hub.url} answered 502 for org/m@main; using the cached copy of org/m@main\n"


def test_ctrl_c_ends_a_download_at_once(hub: HubServer, commit: str) -> None:
    """In a child process. A thread that waits for the hub must not delay its exit."""
    hub.stalled.add("model.safetensors")
    process = subprocess.Popen(
        [sys.executable, "-m", "specgen", "pull", "org/m"],
        env=hub.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        while half_downloaded(hub) < 190_000:  # from here on it waits for the hub's next byte
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=5)  # the client gives the hub 10 s
    finally:
        process.kill()
        process.communicate()
    assert (process.returncode, out, err) == (130, "", "")
    assert len(hub.asked("api/")) == 2  # the commit and its files; no telemetry


def test_ctrl_c_leaves_no_half_files(hub: HubServer, commit: str) -> None:
    """A running download stops and removes its partial files."""
    hub.trickling.add("model.safetensors")
    process = subprocess.Popen([sys.executable, "-m", "specgen", "pull", "org/m"], env=hub.env, stderr=subprocess.PIPE)
    try:
        while half_downloaded(hub) < 60_000:
            assert process.poll() is None
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGINT)
        process.communicate(timeout=5)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    assert not list(hub.cache.rglob("*.incomplete"))
    assert not list(hub.cache.rglob("model.safetensors"))


# list


def test_list_marks_a_model_that_was_only_looked_at(hub: HubServer, commit: str, run: Run) -> None:
    run("show", "org/m")
    assert run("list")[1].splitlines()[-1].endswith(f"  {commit[:8]} (main, without weights)")
    assert json.loads(run("list", "--json")[1])[-1]["revisions"][0]["whole"] is False


def test_list_shows_the_cached_models(hub: HubServer, commit: str, run: Run) -> None:
    run("pull", "org/m")
    code, out, err = run("list")
    assert (code, err) == (0, "")
    head, bundled, row = out.splitlines()
    assert head.split() == ["MODEL", "SIZE", "LAST", "USED", "REVISIONS"]
    assert bundled.split()[0] == "stories"
    assert row.split()[0] == "org/m"
    assert " 400 kB " in row
    assert row.endswith(f"{commit[:8]} (main, in use)")


def test_list_json(hub: HubServer, commit: str, run: Run) -> None:
    run("pull", "org/m")
    code, out, err = run("list", "--json")
    assert (code, err) == (0, "")
    bundled, model = json.loads(out)
    assert (bundled["id"], bundled["bundled"]) == ("stories", True)
    [revision] = model["revisions"]
    assert (model["id"], revision["commit"], revision["names"]) == ("org/m", commit, ["main"])
    assert revision["pinned"]
    assert model["size"] > 400_000
    assert Path(revision["path"]).is_dir()


def test_list_of_nothing(hub: HubServer, run: Run) -> None:
    code, out, err = run("list")
    assert (code, err) == (0, f"specgen: no models in {hub.cache}; `specgen pull org/name` gets one\n")
    assert [row.split()[0] for row in out.splitlines()] == ["MODEL", "stories"]
    assert [model["id"] for model in json.loads(run("list", "--json")[1])] == ["stories"]


def test_pull_of_a_bundled_pair_says_where_both_models_are(hub: HubServer, run: Run) -> None:
    code, out, err = run("pull", "stories")
    assert (code, err) == (0, "")
    for line, name in zip(out.splitlines(), ("target", "draft"), strict=True):
        source, commit, path = line.split("\t")
        assert (source, commit) == (f"bundled:stories/{name}", "-")
        assert (Path(path) / "model.safetensors").is_file()
    assert not hub.requests


# show


def test_show_of_a_curated_pair(run: Run) -> None:
    shown = json.loads(run("show", "stories", "--json")[1])
    assert (shown["pair"], shown["draft"]) == ("stories", "bundled:stories/draft")
    assert shown["architecture"] == "LlamaForCausalLM"
    assert shown["licence"] == "apache-2.0"


def test_show_gets_only_the_small_files(hub: HubServer, commit: str, run: Run) -> None:
    code, out, err = run("show", "org/m", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert (shown["id"], shown["revision"], shown["licence"]) == ("org/m", commit, "apache-2.0")
    assert (shown["architecture"], shown["layers"], shown["hidden_size"]) == ("LlamaForCausalLM", 2, 8)
    assert (shown["vocabulary"], shown["context_length"], shown["dtype"]) == (32, 64, "float32")
    assert shown["parameters"] is None
    assert shown["weight_bytes"] > 400_000
    assert "config.json" in shown["files"]
    assert not hub.asked("safetensors")


def test_show_counts_the_parameters_that_are_here(tmp_path: Path, run: Run) -> None:
    folder = write_model(tmp_path / "m", shards=2)
    code, out, err = run("show", folder)
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(" "))
    assert (lines["parameters"], lines["dtype"], lines["licence"]) == ("100,000", "F32", "apache-2.0")
    assert "revision" not in lines
    assert "  model-00001-of-00002.safetensors\n" in out


def test_show_does_not_count_packed_weights(tmp_path: Path, run: Run) -> None:
    folder = write_model(tmp_path / "m")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": {"bits": 4}}))
    assert json.loads(run("show", folder, "--json")[1])["parameters"] is None


def test_show_a_gguf_file(tmp_path: Path, run: Run) -> None:
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_block_count(2)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_license("mit")
    writer.add_token_list(["a", "bc", ""])
    writer.add_token_types([1, 1, 3])
    writer.add_tensor("output.weight", np.zeros((3, 8), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    code, out, err = run("show", tmp_path / "m.gguf", "--json")
    assert (code, err) == (0, "")
    shown = json.loads(out)
    assert (shown["architecture"], shown["parameters"], shown["layers"], shown["hidden_size"]) == ("llama", 24, 2, 8)
    assert (shown["vocabulary"], shown["context_length"]) == (3, 64)
    assert (shown["dtype"], shown["licence"]) == ("Q8_0", "mit")

    (tmp_path / "half.gguf").write_bytes((tmp_path / "m.gguf").read_bytes()[:150])
    code, out, err = run("show", tmp_path / "half.gguf")
    assert (code, out) == (10, "")
    assert "half.gguf: it is not a complete GGUF file; download it again" in err


def test_show_offline_what_is_not_cached(hub: HubServer, commit: str, run: Run) -> None:
    code, out, err = run("show", "--offline", "org/m")
    assert (code, out, hub.requests) == (5, "", [])
    assert "get it with `specgen pull org/m`" in err


# rm


def test_rm_asks_and_says_what_it_is_about(
    hub: HubServer, commit: str, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("pull", "org/m")
    monkeypatch.setattr("sys.stdin", Terminal("n\n"))
    code, out, err = run("rm", "org/m")
    assert (code, out) == (1, "")
    assert err.startswith("org/m: 400 kB")
    assert f"in {hub.cache}, which other tools share.\nDelete? [y/N] " in err
    assert "Nothing was deleted." in err
    assert "org/m" in run("list")[1]

    monkeypatch.setattr("sys.stdin", Terminal("y\n"))
    code, out, _ = run("rm", "org/m")
    assert code == 0
    assert out.startswith("deleted org/m, 400 kB")
    assert out.endswith(" freed\n")
    assert "org/m" not in run("list")[1]


def test_rm_drops_what_was_packed(hub: HubServer, commit: str, run: Run, shelf: Path) -> None:
    run("pull", "org/m")
    weights = list(hub.cache.glob("models--org--m/snapshots/*/*.safetensors"))
    rows = Int8Rows(StoredFloats(np.ones((16, 32), np.float32)))
    follow(panel_file.create("org/m", weights, "some format", {"layer": rows}), lambda _: None)
    assert panel_file.find(weights, "some format") is not None
    assert run("rm", "--yes", "org/m")[0] == 0
    assert list(shelf.iterdir()) == []


def test_rm_in_a_pipe_needs_a_yes(hub: HubServer, commit: str, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    run("pull", "org/m")
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    code, out, err = run("rm", "org/m")
    assert (code, out) == (2, "")
    assert "add --yes where stdin is no terminal" in err
    assert run("rm", "--yes", "org/m")[0::2] == (0, "")
    assert "org/m" not in run("list")[1]


def test_rm_of_what_is_not_cached(hub: HubServer, commit: str, run: Run) -> None:
    run("pull", "org/m")
    code, out, err = run("rm", "-y", "org/n")
    assert (code, out) == (3, "")
    assert err.endswith("did you mean 'org/m'?\n")
