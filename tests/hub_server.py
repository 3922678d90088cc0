"""A Hugging Face hub on this machine, for the real huggingface_hub client: `publish` a folder, then break things.

In a test module: `hub = pytest.fixture(serve_hub)`. In the test's process the client is pointed at the server; for a
subprocess pass `env=hub.env`.
"""

import hashlib
import json
import os
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
from safetensors.numpy import save_file

CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 8,
    "num_hidden_layers": 2,
    "vocab_size": 32,
    "max_position_embeddings": 64,
    "dtype": "float32",
}
CARD = "---\nlicense: apache-2.0\ntags:\n- test\n---\n# A model\n"


def write_model(folder: Path, *, shards: int = 1, size: int = 400_000) -> Path:
    """A folder with the files of a model of `size` bytes of weights. Its tensors are meaningless."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "generation_config.json").write_text('{"temperature": 0.5}')
    (folder / "tokenizer.json").write_text('{"version": "1.0"}')
    (folder / "tokenizer_config.json").write_text("{}")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    (folder / "README.md").write_text(CARD)
    names = [f"model-{n:05}-of-{shards:05}.safetensors" for n in range(1, shards + 1)] if shards > 1 else []
    for n, name in enumerate(names or ["model.safetensors"]):
        save_file({f"layer.{n}": np.full(size // shards // 4, n, dtype=np.float32)}, folder / name)
    if names:
        index = {"metadata": {}, "weight_map": {f"layer.{n}": name for n, name in enumerate(names)}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


@dataclass
class Request:
    method: str
    path: str
    range: str | None
    token: str | None


@dataclass
class Repository:
    commits: dict[str, str] = field(default_factory=dict)  # branch or tag -> commit
    folders: dict[str, Path] = field(default_factory=dict)  # commit -> what it holds, as it is now
    refusal: tuple[int, str] | None = None  # status and X-Error-Code for everything
    gated: bool = False  # information for all, files for none
    token: str | None = None
    has_terms: bool = False  # gated, but whoever asks has accepted


@dataclass
class HubServer:
    """The published repositories, the faults to simulate, and the requests received."""

    env: dict[str, str] = field(default_factory=dict)
    cache: Path = Path()
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cuts: dict[str, int] = field(default_factory=dict)  # file name -> how many more answers break off half-way
    reset: bool = False  # break off with a reset connection instead of a closed one
    garbled: dict[str, int] = field(default_factory=dict)  # file name -> how many more answers have a wrong bit
    busy: dict[str, int] = field(default_factory=dict)  # file name -> how many more answers are a 503
    signature: str | None = "1"  # with which the addresses of large files are good now; None: with none
    after_cut: Callable[[], object] | None = None  # what happens when an answer has broken off
    resumes: bool = True  # whether a Range is obeyed
    prefix: str = ""  # a path that all others are below, as on a mirror
    stalled: set[str] = field(default_factory=set)  # files that stop half-way until the server ends
    trickling: set[str] = field(default_factory=set)  # files that come slowly
    failing: int = 0  # the status that every request gets; 0 for none
    over: threading.Event = field(default_factory=threading.Event)
    server: ThreadingHTTPServer | None = None

    @property
    def port(self) -> int:
        assert self.server is not None
        return int(self.server.server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    def publish(self, repo: str, folder: Path, revision: str = "main") -> str:
        """Serve `folder` as it is from now on; its commit."""
        commit = hashlib.sha1(b"".join(_digest(path).encode() for path in _files(folder).values())).hexdigest()
        known = self.repositories.setdefault(repo, Repository())
        known.commits[revision] = commit
        known.folders[commit] = folder
        return commit

    def asked(self, part: str = "", method: str = "") -> list[Request]:
        """The requests so far whose path has `part` in it."""
        return [request for request in self.requests if part in request.path and method in request.method]

    def start(self) -> None:
        self.server = _Server(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Nothing answers any more: connections are refused."""
        self.over.set()
        if self.server is not None:
            self.server.shutdown()
            self.server.server_close()


def serve_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """The fixture: an empty hub, an empty cache, and a client that does not wait between tries."""
    from huggingface_hub import close_session, constants

    hub = HubServer(cache=tmp_path / "hf" / "hub")
    hub.start()
    settings = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_ETAG_TIMEOUT": "5"}
    settings |= {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    dropped = ("HF_TOKEN", "HF_HUB_OFFLINE", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "TRANSFORMERS_OFFLINE")
    for name in dropped:
        monkeypatch.delenv(name, raising=False)
    hub.env = {**os.environ, **settings, "no_proxy": "*"}
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(constants, "ENDPOINT", hub.url)
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(hub.cache))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    hasty = SimpleNamespace(**{**vars(time), "sleep": lambda _seconds: None})
    monkeypatch.setattr("huggingface_hub.file_download.time", hasty)
    monkeypatch.setattr("huggingface_hub.utils._http.time", hasty)
    monkeypatch.setattr("specgen.hub.download.RETRY_WAITS_S", (0.0,) * 3)
    close_session()
    yield hub
    hub.stop()
    close_session()


def half_downloaded(hub: HubServer) -> int:
    """The cached bytes of incomplete files."""
    sizes = [0]
    for path in hub.cache.rglob("*.incomplete"):
        with suppress(FileNotFoundError):  # finished meanwhile
            sizes.append(path.stat().st_size)
    return max(sizes)


def _files(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}


def _digest(path: Path) -> str:
    return hashlib.sha256(f"{path.name} {_sha256(path)}".encode()).hexdigest()


def _sha256(path: Path) -> str:
    status = path.stat()
    return _hash(path, status.st_size, status.st_mtime_ns)


@cache
def _hash(path: Path, size: int, modified: int) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _is_lfs(name: str) -> bool:
    return name.endswith((".safetensors", ".bin", ".gguf"))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that went away is nothing to print."""


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if self.hub.prefix and not path.startswith((self.hub.prefix, "/cdn/")):
            return self._refuse(404, "")
        path = path.removeprefix(self.hub.prefix).strip("/")
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        self.hub.requests.append(Request(self.command, path, self.headers.get("Range"), token))
        if self.hub.failing:
            self._refuse(self.hub.failing, "")
        elif path == "api/models":
            self._json([{"id": repo} for repo in self.hub.repositories])  # whatever was searched for
        elif path.startswith("cdn/") and urlsplit(self.path).query != self.hub.signature:
            self._send(403, b"<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>", {})
        elif path.startswith("cdn/"):
            self._file(Path("/" + path.removeprefix("cdn/")), {})
        else:
            is_api = path.startswith("api/models/")
            parts = path.removeprefix("api/models/").split("/")
            self._route("/".join(parts[:2]), parts[2:], token, is_api=is_api)
        return None

    def _route(self, repo: str, rest: list[str], token: str | None, *, is_api: bool) -> None:
        known = self.hub.repositories.get(repo) or Repository(refusal=(404, "RepoNotFound"))
        revision = rest[1] if len(rest) > 1 else "main"
        commit = known.commits.get(revision, revision if revision in known.folders else None)
        if known.refusal is not None:
            self._refuse(*known.refusal)
        elif known.token is not None and token != known.token:
            self._refuse(401, "RepoNotFound")
        elif commit is None:
            self._refuse(404, "RevisionNotFound")
        elif is_api:
            folder = known.folders[commit]
            self._json(self._tree(folder) if rest[:1] == ["tree"] else self._info(repo, known, commit))
        elif known.gated:
            self._refuse(403, "GatedRepo")
        else:
            self._resolve(known.folders[commit], commit, "/".join(rest[2:]))

    def _info(self, repo: str, known: Repository, commit: str) -> object:
        gated = "auto" if known.gated or known.has_terms else False
        siblings = [{"rfilename": name} for name in _files(known.folders[commit])]
        return {"id": repo, "sha": commit, "gated": gated, "siblings": siblings}

    def _tree(self, folder: Path) -> object:
        entries: list[dict[str, object]] = []
        for name, path in _files(folder).items():
            size = path.stat().st_size
            entry = {"type": "file", "path": name, "size": size, "oid": _digest(path)[:40]}
            lfs = {"lfs": {"oid": _sha256(path), "size": size, "pointerSize": 130}} if _is_lfs(name) else {}
            entries.append({**entry, **lfs})
        return entries

    def _resolve(self, folder: Path, commit: str, name: str) -> None:
        """Large files are elsewhere, at another origin; their description comes with the redirect."""
        path = _files(folder).get(name)
        if path is None:
            return self._refuse(404, "EntryNotFound", {"X-Repo-Commit": commit})
        digest = _sha256(path) if _is_lfs(name) else _digest(path)[:40]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{digest}"'}
        if not _is_lfs(name):
            return self._file(path, headers)
        headers |= {"X-Linked-Size": str(path.stat().st_size), "X-Linked-ETag": headers["ETag"]}
        headers["Location"] = f"http://localhost:{self.hub.port}/cdn{path}?{self.hub.signature}"
        return self._send(302, b"", headers)

    def _file(self, path: Path, headers: dict[str, str]) -> None:
        garbles = False
        if self.command == "GET" and self.hub.busy.get(path.name, 0) > 0:
            self.hub.busy[path.name] -= 1
            return self._refuse(503, "")
        if self.command == "GET" and self.hub.garbled.get(path.name, 0) > 0:
            self.hub.garbled[path.name] -= 1
            garbles = True
        asked = self.headers.get("Range") if self.hub.resumes else None
        first, _, last = (asked or "bytes=0-").removeprefix("bytes=").partition("-")
        size = path.stat().st_size
        start, end = int(first), min(int(last or size), size - 1)
        with path.open("rb") as file:
            file.seek(start)
            data = file.read(end + 1 - start)
        if garbles:
            data = data[:-1] + bytes([data[-1] ^ 1])
        if asked:
            headers = {**headers, "Content-Range": f"bytes {start}-{end}/{size}"}
        half = self.command == "GET" and (path.name in self.hub.stalled or self.hub.cuts.get(path.name, 0) > 0)
        self._send(206 if asked else 200, data, headers, half=half)
        if half:
            self._break_off(path.name)
        return None

    def _break_off(self, name: str) -> None:
        self.close_connection = True
        if name in self.hub.stalled:
            self.hub.over.wait(30)
            return
        self.hub.cuts[name] -= 1
        if self.hub.after_cut:
            self.hub.after_cut()
        if self.hub.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        else:
            self.connection.shutdown(socket.SHUT_RDWR)

    def _refuse(self, status: int, code: str, headers: dict[str, str] | None = None) -> None:
        self._send(status, b'{"error": "no"}', {**(headers or {}), **({"X-Error-Code": code} if code else {})})

    def _json(self, value: object) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def _send(self, status: int, body: bytes, headers: dict[str, str], *, half: bool = False) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self._body(body[: len(body) // 2] if half else body)

    def _body(self, body: bytes) -> None:
        slow = self.command == "GET" and Path(unquote(urlsplit(self.path).path)).name in self.hub.trickling
        step = 2048 if slow else len(body) or 1
        for start in range(0, len(body), step):
            self.wfile.write(body[start : start + step])
            self.wfile.flush()
            if slow and self.hub.over.wait(0.005):
                return
