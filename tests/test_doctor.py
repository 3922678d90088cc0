"""Findings of each check on simulated machines."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx2
import psutil
import pytest
import torch

from specgen import doctor
from specgen.doctor import Status
from specgen.hub.client import constants
from tests.hub_server import HubServer, serve_hub

hub_server = pytest.fixture(serve_hub)


@pytest.fixture(autouse=True)
def small_reads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_READ", 1 << 16)


def test_processor_features_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_vnni": True, "amx_bf16": True})
    found = doctor.check_processor().found
    assert "int8 instructions: AVX512-VNNI; bfloat16 instructions: AMX bf16" in found
    monkeypatch.delattr(torch.cpu, "get_capabilities")
    assert "does not report" in doctor.check_processor().found


def test_a_processor_without_wide_vectors_is_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "x86_64"})
    assert doctor.check_processor().verdict is Status.WARN
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"architecture": "arm64"})
    assert doctor.check_processor().verdict is Status.OK


@pytest.mark.parametrize(
    ("threads", "verdict", "advice"),
    [(4, Status.OK, ""), (1, Status.WARN, "OMP_NUM_THREADS=1 sets that"), (9, Status.WARN, "--threads 8")],
)
def test_threads_are_held_against_cores(
    monkeypatch: pytest.MonkeyPatch, threads: int, verdict: Status, advice: str
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 4)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    found = doctor.check_threads()
    assert found.verdict is verdict
    assert advice in found.advice


@pytest.mark.parametrize(("free", "verdict"), [(1e9, Status.WARN), (9e9, Status.OK)])
def test_little_memory_is_a_warning(monkeypatch: pytest.MonkeyPatch, free: float, verdict: Status) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=free, total=16e9))
    found = doctor.check_memory()
    assert (found.verdict, "of 16.0 GB" in found.found) == (verdict, True)


@pytest.mark.parametrize(("read", "verdict"), [(3e9, Status.WARN), (30e9, Status.OK)])
def test_bandwidth_says_what_it_means_in_tokens(monkeypatch: pytest.MonkeyPatch, read: float, verdict: Status) -> None:
    monkeypatch.setattr("specgen.bench.roofline.bandwidth", lambda *_: read)
    found = doctor.check_bandwidth()
    assert (found.verdict, f"at most {read / 1e9:.0f} tok/s" in found.found) == (verdict, True)


def test_bandwidth_is_measured() -> None:
    assert float(doctor.check_bandwidth().found.partition(" ")[0]) > 0


@pytest.mark.parametrize(
    ("fault", "verdict", "says"),
    [(None, Status.OK, "exact at every width"), ("no llvmlite", Status.WARN, "do not run here: no llvmlite")],
)
def test_kernels_are_those_that_run_here(
    monkeypatch: pytest.MonkeyPatch, fault: str | None, verdict: Status, says: str
) -> None:
    monkeypatch.setattr("specgen.nn.kernels.support.find_fault", lambda: fault)
    found = doctor.check_kernels()
    assert (found.verdict, says in found.found) == (verdict, True)


def test_rounding_that_depends_on_the_width_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    for faulty, verdict in (((), Status.OK), ((96, 128), Status.WARN)):
        monkeypatch.setattr(
            "specgen.nn.lean.attention.depends_on_width", lambda size, *_, faulty=faulty: size in faulty
        )
        found = doctor.check_rounding()
        assert found.verdict == verdict
    assert "with 96, 128 dimensions a head" in found.found


def test_a_torch_without_onednn_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert torch.__version__ in doctor.check_torch().found
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    assert doctor.check_torch().verdict is Status.WARN


def test_no_gpu_is_no_fault_but_a_driver_that_torch_does_not_see_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (torch.cuda, torch.backends.mps, torch.xpu):
        monkeypatch.setattr(module, "is_available", lambda: False)
    monkeypatch.setattr(doctor.shutil, "which", lambda _: None)
    assert doctor.check_gpu().verdict is Status.OK
    assert doctor.check_graphs().verdict is Status.OK
    monkeypatch.setattr(doctor.shutil, "which", lambda _: "/usr/bin/nvidia-smi")
    found = doctor.check_gpu()
    assert (found.verdict, "sees no GPU" in found.found) == (Status.WARN, True)


@pytest.mark.parametrize(
    ("capture", "verdict"),
    [
        (lambda: lambda step: lambda: (torch.full((8,), 2.0),), Status.OK),
        (lambda: lambda step: lambda: (torch.zeros(8),), Status.FAIL),
        (None, Status.WARN),
    ],
)
def test_graphs_are_captured_and_run(monkeypatch: pytest.MonkeyPatch, capture: Any, verdict: Status) -> None:
    def broken() -> Any:
        raise RuntimeError("operation not permitted\nmore")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch, "ones", lambda *_, **__: torch.full((8,), 1.0))
    monkeypatch.setattr("specgen.nn.lean.graphs.CudaGraphs", capture or broken)
    found = doctor.check_graphs()
    assert found.verdict is verdict
    assert "\n" not in found.found


def test_a_hub_that_answers_is_well(hub_server: HubServer) -> None:
    found = doctor.check_hub(offline=False)
    assert (found.verdict, found.found.startswith(hub_server.url)) == (Status.OK, True), found
    hub_server.failing = 503
    found = doctor.check_hub(offline=False)
    assert (found.verdict, "answered 503" in found.found) == (Status.WARN, True)


def test_a_hub_that_cannot_be_reached_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    found = doctor.check_hub(offline=False)
    assert (found.verdict, "cannot reach http://127.0.0.1:9" in found.found) == (Status.WARN, True)
    monkeypatch.setattr(constants, "ENDPOINT", "hub")
    assert doctor.check_hub(offline=False).verdict is Status.WARN


def test_offline_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(httpx2, "get", None)
    assert doctor.check_hub(offline=True).verdict is Status.OK


def test_caches_tell_their_sizes(monkeypatch: pytest.MonkeyPatch, shelf: Path, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=50e9))
    monkeypatch.setattr("specgen.hub.cache.constants.HF_HUB_CACHE", str(tmp_path / "none" / "hub"))
    assert doctor.check_packed().found.startswith("0 bytes")
    shelf.mkdir()
    (shelf / "a.bin").write_bytes(b"x" * 12_000_000)
    assert doctor.check_packed().found.startswith("12 MB")
    assert doctor.check_models().found.startswith("0 models")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda _: SimpleNamespace(free=1e9))
    assert doctor.check_models().verdict is doctor.check_packed().verdict is Status.WARN
    monkeypatch.setattr(doctor.os, "access", lambda *_: False)
    assert "not writable" in doctor.check_packed().found


def test_a_gpu_without_triton_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    assert doctor.check_triton().verdict is Status.OK
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("specgen.nn.lean.fusion.load_kernels", lambda _: doctor)
    assert doctor.check_triton().verdict is Status.OK
    monkeypatch.setattr("specgen.nn.lean.fusion.load_kernels", lambda _: "triton is not installed")
    assert doctor.check_triton().verdict is Status.WARN
    assert doctor.check_triton().found.startswith("triton is not installed: passes are slower")
