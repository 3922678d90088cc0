"""The memory plan of an accelerator against the bytes that its model holds, on meta tensors of true shapes."""

import math
import weakref
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812  the field's name
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.tokens import Tokens
from specgen.core.types import ModelRef, Quant, SamplingParams
from specgen.engine.sampling.device import pick_rows
from specgen.nn import memory
from specgen.nn.device import Placement
from specgen.nn.kernels import device_linear
from specgen.nn.kernels.device_linear import DeviceLinears
from specgen.nn.kernels.linears import FloatLinears
from specgen.nn.kernels.workspace import Workspace
from specgen.nn.lean.architecture import Architecture, read_architecture
from specgen.nn.lean.graphs import Step
from specgen.nn.lean.static import StaticModel
from specgen.nn.lean.weights import EMBEDDING, HEAD, read_weights, tensor_shapes

META, CUDA = torch.device("meta"), torch.device("cuda")


class Live(TorchDispatchMode):
    """Bytes of the meta tensors that are alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for each in tree_leaves(result):
            if isinstance(each, torch.Tensor) and each.is_meta:
                storage = each.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    weakref.finalize(storage, self._free, storage._cdata, storage.nbytes())
        self.peak = max(self.peak, self.now)
        return result

    def _free(self, name: int, count: int) -> None:
        self._seen.remove(name)
        self.now -= count


class Pool:
    """A capture that holds the memory of a step from its first run on, as the pool of a CUDA graph does."""

    def __init__(self, live: Live) -> None:
        self._live = live

    def __call__(self, step: Step) -> Step:
        before, top = self._live.now, self._live.peak
        self._live.peak = before
        results = tuple(torch.empty_like(result) for result in step())
        held = torch.empty(self._live.peak - before, dtype=torch.uint8, device=META)
        self._live.peak = max(top, self._live.peak)
        return lambda: results if held.is_meta else ()


def fused_kernels() -> ModuleType:
    """Kernels that allocate what those of nn/kernels/fused.py do, and compute nothing."""
    kernels = ModuleType("kernels")

    def attend(projected: torch.Tensor, cache: torch.Tensor, start: Any, queries: int, **_: Any) -> torch.Tensor:
        rows, _, size = projected.shape
        space = Workspace.of(rows, queries, cache.shape[1], size, cache.shape[2])
        held = projected.new_empty(space.nbytes // 4, dtype=torch.float32)
        return projected.new_empty(rows, queries * size) if held.is_meta else held

    found: dict[str, Any] = {
        "rms_norm": lambda rows, weight, eps: torch.empty_like(rows),
        "gate": lambda joined, activation: joined.new_empty(len(joined), joined.shape[1] // 2),
        "rotate_and_store": lambda *_: None,
        "attend": attend,
    }
    for name, kernel in found.items():
        setattr(kernels, name, kernel)
    return kernels


class Shapes:
    """Tensors of an architecture without numbers, as safetensors files have them."""

    def __init__(self, architecture: Architecture) -> None:
        self._shapes = dict(tensor_shapes(architecture))
        if not architecture.tied:
            self._shapes["lm_head.weight"] = (architecture.vocab_size, architecture.hidden_size)

    def __contains__(self, name: str) -> bool:
        return name in self._shapes

    def __getitem__(self, name: str) -> torch.Tensor:
        return torch.empty(self._shapes[name], dtype=torch.bfloat16, device="meta")


LLAMA_8B = {
    "model_type": "llama",
    "vocab_size": 128256,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
GEMMA_2B = {
    "model_type": "gemma2",
    "vocab_size": 256000,
    "hidden_size": 2304,
    "intermediate_size": 9216,
    "num_hidden_layers": 26,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "tie_word_embeddings": True,
}
QWEN_14B = {
    "model_type": "qwen2",
    "vocab_size": 152064,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 48,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": False,
}
QWEN_05B = {
    "model_type": "qwen2",
    "vocab_size": 151936,
    "hidden_size": 896,
    "intermediate_size": 4864,
    "num_hidden_layers": 24,
    "num_attention_heads": 14,
    "num_key_value_heads": 2,
    "max_position_embeddings": 32768,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


def memory_efficient(query: Any, key: Any, value: Any, attn_mask: Any, scale: float) -> torch.Tensor:
    """The attention that CUDA runs for prompts, which never holds all scores."""
    kernel = torch.ops.aten._scaled_dot_product_efficient_attention
    return kernel(query, key, value, attn_mask, False, 0.0, False, scale=scale)[0]  # type: ignore[no-any-return]


@pytest.fixture(autouse=True)
def as_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(F, "scaled_dot_product_attention", memory_efficient)


def load(
    config: Mapping[str, Any], dtype: torch.dtype, context: int, fused: ModuleType | None, live: Live
) -> StaticModel:
    architecture = read_architecture(config)
    assert isinstance(architecture, Architecture), architecture
    placement = Placement(META, dtype)
    tensors: Any = Shapes(architecture)
    reading = read_weights(architecture, tensors, placement, FloatLinears(placement), fused)
    while True:
        try:
            next(reading)
        except StopIteration as done:
            return StaticModel(architecture, done.value, placement, context, lambda: Pool(live))


def plan(config: Mapping[str, Any], dtype: torch.dtype, context: int) -> memory.Footprint:
    architecture = read_architecture(config)
    checkpoint = Checkpoint(ModelRef("model"), Path("model"))
    return memory.footprint(checkpoint, architecture, Placement(CUDA, dtype), context)


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32], ids=str)
@pytest.mark.parametrize(
    ("config", "context"),
    [(LLAMA_8B, 512), (LLAMA_8B, 8192), (LLAMA_8B, 131072), (GEMMA_2B, 8192), (QWEN_05B, 4096), (QWEN_05B, 32768)],
    ids=["8B", "8B at 8K", "8B at 128K", "capped scores", "small", "small at 32K"],
)
def test_what_is_planned_is_what_a_full_context_takes(
    config: Mapping[str, Any], context: int, dtype: torch.dtype, fused: bool
) -> None:
    """Prompts, rounds, sampling and growth of the cache: at most the plan, and at least nine tenths of it."""
    foretold = plan(config, dtype, context)
    with Live() as live:
        model = load(config, dtype, context, fused_kernels() if fused else None, live)
        weights = live.peak = live.now  # parts of them lie on the CPU, not on the device
        assert foretold.weights == pytest.approx(weights, rel=1e-3)
        for length in (context // 2 - 20, context - 20):
            model._reserve(model._context, length + 8)
            # The rest was read by passes like the last ones.
            model._context.tokens = Tokens([1] * (length - min(length, 700)))
            rows = model.forward(Tokens([1] * length), 1)
        for length in range(context - 19, context + 1):
            rows = model.forward(Tokens([1] * length), 8)
        pick_rows(rows, SamplingParams(temperature=0.8, top_p=0.9, seed=1), 5, temperature=0.8, whole=True)
        top = live.peak - weights
    assert 0.9 <= top / (foretold.cache + foretold.passing) <= 1.0


@pytest.mark.parametrize("quant", [Quant.INT4, Quant.INT8])
@pytest.mark.parametrize("config", [QWEN_14B, QWEN_05B], ids=["14B", "small, tied"])
def test_quantized_weights_take_what_is_planned(
    config: Mapping[str, Any], quant: Quant, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On tensors without numbers."""
    architecture = read_architecture(config)
    assert isinstance(architecture, Architecture)
    placement = Placement(CUDA, torch.bfloat16, quant)
    held: list[torch.Tensor] = []
    for product in ("int4_linear", "int8_linear"):
        monkeypatch.setattr(device_linear, product, keeping(getattr(device_linear, product), held))
    shapes = dict(tensor_shapes(architecture)) | {HEAD: (architecture.vocab_size, architecture.hidden_size)}
    linears = DeviceLinears(replace(placement, device=torch.device("cpu")))
    with FakeTensorMode():
        total = 2 * math.prod(shapes[EMBEDDING]) + 4 * sum(shape[0] for shape in shapes.values() if len(shape) == 1)
        for name, shape in shapes.items():
            if len(shape) == 2 and name != EMBEDDING:
                held.clear()
                label = "head" if name == HEAD else name
                linears.make(label, lambda shape=shape: [torch.empty(shape, dtype=torch.bfloat16)], None)
                total += sum(each.nbytes for each in held)
    checkpoint = Checkpoint(ModelRef("model"), Path("model"))
    foretold = memory.footprint(checkpoint, architecture, placement, 4096)
    assert foretold.weights == total
    if config is QWEN_14B and quant is Quant.INT4:
        assert memory.peak([foretold]) < 12 * 2**30 - 300_000_000, "a card of 12 GB, with what its driver holds"


def keeping(make: Any, held: list[torch.Tensor]) -> Any:
    """`make`, which notes the tensors that the layer it returns keeps."""

    def made(*arguments: Any) -> Any:
        linear = make(*arguments)
        cells = (cell.cell_contents for cell in linear.__closure__)
        held.extend(cell for cell in cells if isinstance(cell, torch.Tensor))
        return linear

    return made


def test_the_chunk_of_transformers_is_the_one_that_is_planned() -> None:
    from specgen.nn.transformers import model

    assert memory.TRANSFORMERS_CHUNK == model._CHUNK
