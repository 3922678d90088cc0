"""Fixtures that several test files share. Nothing slow is imported here: most tests need no torch."""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from specgen.config.settings import KEYS, OTHER_NAMES, variable

if "PYTEST_XDIST_WORKER" in os.environ:
    # A process for each core: more threads would only wait for each other. Read when torch is imported.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

# The same examples in every run, and no clock: the machine may be busy.
settings.register_profile("specgen", deadline=None, derandomize=True, database=None)
settings.load_profile("specgen")


@pytest.fixture(autouse=True, scope="session")
def interruptible() -> Iterator[None]:
    """Handle SIGINT, so that child processes do too. nohup and background jobs ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.fixture(autouse=True, scope="session")
def no_user_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Packed weights and hashes go to a folder of the tests, not to the user's own."""
    folder = tmp_path_factory.mktemp("packed")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("specgen.nn.kernels.weight_cache.folder", lambda: folder)
        patch.setattr("specgen.checkpoint.provenance._hashes_file", lambda: folder / "hashes.json")
        yield


@pytest.fixture(autouse=True, scope="session")
def no_user_data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nor is what users keep read or written, here or by programs that a test starts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SPECGEN_DATA_DIR", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(autouse=True)
def no_user_settings(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's settings, empty; what the environment and a specgen.toml of the machine say is away.

    No command leaves a process behind.
    """
    for name in (*KEYS, *OTHER_NAMES):
        monkeypatch.delenv(variable(name), raising=False)
    monkeypatch.setenv(variable("keep-alive"), "off")
    folder = tmp_path_factory.mktemp("settings")
    monkeypatch.setenv("SPECGEN_CONFIG_DIR", str(folder))
    return folder


@pytest.fixture
def pins_file(no_user_settings: Path) -> Path:
    """Where this test pins models."""
    return no_user_settings / "pins.toml"


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for packed weights that only this test uses."""
    monkeypatch.setattr("specgen.nn.kernels.weight_cache.folder", lambda: tmp_path / "packed")
    return tmp_path / "packed"


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Tiny checkpoints; see checkpoints.py."""
    from tests.checkpoints import Checkpoints

    return Checkpoints(tmp_path_factory.mktemp("checkpoints"))


@pytest.fixture
def through_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every model runs on transformers, also where our own decoder could run it."""
    monkeypatch.setattr("specgen.session.loading.read_checkpoint_architecture", lambda _: "a test wants it so")


@pytest.fixture(scope="session")
def reference() -> Callable[..., list[int]]:
    """transformers' own greedy continuation, computed once for the same arguments."""
    from tests import checkpoints

    known: dict[Any, list[int]] = {}

    def cached(folder: Any, ids: Any, new: int) -> list[int]:
        key = (folder, tuple(ids), new)
        if key not in known:
            known[key] = checkpoints.reference(folder, ids, new)
        return known[key]

    return cached


@pytest.fixture
def one_thread() -> Iterator[None]:
    """torch on one thread: tensors as small as a test's only make threads wait for each other."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip the tests that need a CUDA device where there is none."""
    marked = [item for item in items if item.get_closest_marker("cuda")]
    if not marked:
        return
    import torch

    if not torch.cuda.is_available():
        for item in marked:
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))
