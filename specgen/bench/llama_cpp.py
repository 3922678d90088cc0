"""A llama-server of the user as a peer: it reads the same token ids and reports its times."""

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import httpx2

from specgen.bench.contenders import HYBRID, MODEL, PLAIN
from specgen.bench.measure import Measurement
from specgen.core.errors import BadFile, SpecgenError, UsageError
from specgen.core.events import Stats

LLAMA_CPP = "llama.cpp"
_HOST = "127.0.0.1"
_START_S = 600.0  # a large model on a slow disk
_POLL_S = 0.05


class LlamaServerPeer:
    """One running llama-server. Greedy; an end token does not stop it."""

    own = False
    kind = LLAMA_CPP
    reference = PLAIN

    def __init__(self, way: str, measures: tuple[str, ...], url: str) -> None:
        self.name = f"{LLAMA_CPP} {way}"
        self.measures = measures
        self._url = url

    def run(self, prompt: Sequence[int], new: int) -> Measurement:
        """Times are those reported by the server, without HTTP."""
        request = {
            "prompt": list(prompt),
            "n_predict": new,
            "temperature": 0.0,
            "repeat_penalty": 1.0,
            "ignore_eos": True,
            "cache_prompt": False,
            "return_tokens": True,
        }
        try:
            answer = httpx2.post(f"{self._url}/completion", json=request, timeout=None, trust_env=False)
            answer.raise_for_status()
            made: dict[str, Any] = answer.json()
            times = made["timings"]
            generated, accepted = int(times["predicted_n"]), int(times.get("draft_n_accepted") or 0)
            first_s = times["prompt_ms"] / 1000
            stats = Stats(
                prompt_tokens=len(prompt),
                generated_tokens=generated,
                rounds=generated - accepted,
                drafted_tokens=int(times.get("draft_n") or 0),
                accepted_tokens=accepted,
                time_to_first_token_s=first_s,
                first_round_tokens=1,
                elapsed_s=first_s + times["predicted_ms"] / 1000,
            )
            return Measurement(tuple(made["tokens"]), stats)
        except (httpx2.HTTPError, ValueError, KeyError, TypeError) as error:
            reason = f"{type(error).__name__}: {error}"
            raise SpecgenError(
                f"{self.name} does not answer like llama-server ({reason})", hint="update llama-server"
            ) from error


@contextlib.contextmanager
def llama_peers(binary: str, models: Sequence[str], context: int, threads: int) -> Iterator[list[LlamaServerPeer]]:
    """Start a plain server and, with a draft, a second one. They stop when the context exits.

    `models` holds the .gguf file of the target and, optionally, that of the draft. `context` is the context length in
    tokens. Raises UsageError, BadFile, SpecgenError.
    """
    path = shutil.which(Path(binary).expanduser())
    if path is None:
        raise UsageError(f"{binary} is not a program", hint="give the path of a llama-server: --peer llama.cpp=PATH")
    for model in models:
        if not Path(model).expanduser().is_file():
            raise BadFile(f"cannot read {model}: no such file", hint="give an existing .gguf file to --peer-gguf")
    target, *draft = [str(Path(model).expanduser()) for model in models]
    common = [path, "-m", target, "-c", str(context), "-t", str(threads), "-np", "1", "--host", _HOST]
    with contextlib.ExitStack() as stack:
        peers = [LlamaServerPeer("plain", (PLAIN,), stack.enter_context(_server(common)))]
        if draft:
            url = stack.enter_context(_server([*common, "-md", draft[0]]))
            peers.append(LlamaServerPeer("draft", (MODEL, HYBRID), url))
        yield peers


@contextlib.contextmanager
def _server(command: Sequence[str]) -> Iterator[str]:
    """Start a server, wait until it answers and yield its URL. Stop it at the end."""
    with socket.socket() as free:
        free.bind((_HOST, 0))
        port = free.getsockname()[1]
    url = f"http://{_HOST}:{port}"
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen([*command, "--port", str(port)], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        try:
            _wait(process, url, log)
            yield url
        finally:
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", url: str, log: IO[bytes]) -> None:
    """Wait until the model is loaded. Raises SpecgenError."""
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            lines = log.read().decode("utf-8", "replace").strip().splitlines()
            raise SpecgenError(
                f"{LLAMA_CPP} exited: {lines[-1] if lines else 'no output'}",
                hint="give the path of a llama-server: --peer llama.cpp=PATH",
            )
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/health", timeout=5, trust_env=False).status_code == 200:
                return
        time.sleep(_POLL_S)
    raise SpecgenError(
        f"{LLAMA_CPP} did not start within {_START_S:.0f} s", hint="start llama-server by hand to see why"
    )
