"""A GGUF file in the lean decoder agrees with the same model on the hub, and with transformers."""

import subprocess
import sys
import tracemalloc
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GgufConfig

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.core.errors import BadFile, UnsupportedModel
from specgen.core.events import Finished, Notice
from specgen.core.progress import follow
from specgen.core.tokens import Tokens
from specgen.core.types import Dtype, EngineOptions, Quant, SamplingChoice
from specgen.nn.device import Placement
from specgen.nn.lean.gguf_weights import GgufTensors
from specgen.nn.lean.load import load_decoder, read_checkpoint_architecture
from specgen.nn.lean.model import LeanModel
from specgen.session.loading import open_pair
from specgen.session.session import Session
from tests.checkpoints import write_tokenizer
from tests.gguf_files import finish, write_gguf
from tests.nn.lean.checkpoints import GEMMA3_ROPES, LLAMA3, VOCAB, YARN, reference, save

# The width of every matrix is a multiple of the blocks of Q8_0.
SIZES = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "head_dim": 16}
MODELS: dict[str, dict[str, Any]] = {
    "llama": {"model_type": "llama"},
    "llama, tied": {"model_type": "llama", "tie_word_embeddings": True},
    "llama, biases": {"model_type": "llama", "attention_bias": True, "mlp_bias": True},
    "llama, wide heads": {"model_type": "llama", "head_dim": 32},
    "llama, llama3 rope": {"model_type": "llama", "rope_parameters": LLAMA3},
    "llama, linear rope": {"model_type": "llama", "rope_parameters": {"rope_type": "linear", "factor": 4.0}},
    "qwen2": {"model_type": "qwen2", "head_dim": None},
    "qwen2, yarn rope": {"model_type": "qwen2", "head_dim": None, "rope_parameters": YARN},
    "qwen3": {"model_type": "qwen3", "head_dim": 32},
    "smollm3": {"model_type": "smollm3"},
    "granite": {
        "model_type": "granite",
        "embedding_multiplier": 3.0,
        "attention_multiplier": 0.2,
        "residual_multiplier": 0.4,
        "logits_scaling": 2.0,
    },
    "olmo2": {"model_type": "olmo2"},
    "phi3": {"model_type": "phi3", "head_dim": None, "sliding_window": 20},
    "phi3, partial rope": {
        "model_type": "phi3",
        "head_dim": None,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.5},
    },
    "gemma2": {"model_type": "gemma2", "sliding_window": 20, "query_pre_attn_scalar": 16},
    "gemma3": {
        "model_type": "gemma3_text",
        "num_hidden_layers": 7,
        "sliding_window": 20,
        "query_pre_attn_scalar": 16,
        "final_logit_softcapping": 20.0,
        "rope_parameters": {**GEMMA3_ROPES, "sliding_attention": {"rope_type": "default", "rope_theta": 10_000.0}},
    },
}
# The models that transformers reads without ignoring part of the header. Its Gemma scales attention for heads of 256.
GEMMA3 = {"head_dim": 256, "query_pre_attn_scalar": 256, "num_hidden_layers": 7, "rope_parameters": None}
READ_BY_TRANSFORMERS = {
    "llama": MODELS["llama"],
    "qwen2": MODELS["qwen2"],
    "qwen3": MODELS["qwen3"] | {"head_dim": 128},
    "phi3": MODELS["phi3"] | {"sliding_window": None},
    "gemma2": MODELS["gemma2"] | {"head_dim": 256, "query_pre_attn_scalar": 256},
    "gemma3": {"model_type": "gemma3_text", "sliding_window": 20} | GEMMA3,
}
IDS = [(7 * index + index // 5) % VOCAB for index in range(48)]
TYPES = gguf.GGMLQuantizationType

pytestmark = pytest.mark.usefixtures("one_thread")


def made(folder: Path, config: dict[str, Any]) -> Path:
    return save(folder / "hub", **{key: value for key, value in (SIZES | config).items() if value is not None})


def load(checkpoint: Checkpoint) -> LeanModel:
    architecture = read_checkpoint_architecture(checkpoint)
    assert not isinstance(architecture, str), architecture
    placement = Placement(torch.device("cpu"), torch.float32)
    return follow(load_decoder(checkpoint, architecture, placement, 512), lambda _: None)


def logits(checkpoint: Checkpoint, ids: list[int]) -> torch.Tensor:
    return load(checkpoint).forward(Tokens(ids), len(ids))


def read_by_transformers(path: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(
        path.parent, gguf_file=path.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).eval()


@pytest.mark.parametrize("name", MODELS)
def test_a_file_of_every_family_agrees_with_its_hub_model(tmp_path: Path, name: str) -> None:
    folder = made(tmp_path, MODELS[name])
    expected = reference(folder, IDS)
    torch.testing.assert_close(logits(write_gguf(tmp_path / "m.gguf", folder), IDS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.F16, TYPES.BF16, TYPES.Q8_0], ids=str)
@pytest.mark.parametrize("name", READ_BY_TRANSFORMERS)
def test_a_quantized_file_agrees_with_what_transformers_reads(tmp_path: Path, name: str, kind: Any) -> None:
    checkpoint = write_gguf(tmp_path / "m.gguf", made(tmp_path, READ_BY_TRANSFORMERS[name]), kind)
    model = read_by_transformers(checkpoint.path)
    with torch.inference_mode():
        expected = model(torch.tensor([IDS])).logits[0]
    torch.testing.assert_close(logits(checkpoint, IDS), expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_greedy_text_is_that_of_transformers(tmp_path: Path, name: str) -> None:
    checkpoint = write_gguf(tmp_path / "m.gguf", made(tmp_path, MODELS[name]), TYPES.Q8_0)
    prompt = torch.tensor([IDS[:9]])
    expected = read_by_transformers(checkpoint.path).generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=20, do_sample=False, eos_token_id=None
    )
    ids, model = IDS[:9], load(checkpoint)
    for _ in range(20):
        ids = [*ids, int(model.forward(Tokens(ids), 1).argmax())]
    assert ids == expected[0].tolist()


QUANTIZED = (
    "Q8_0",
    "Q4_0",
    "Q4_1",
    "Q5_0",
    "Q5_1",
    "Q2_K",
    "Q3_K",
    "Q4_K",
    "Q5_K",
    "Q6_K",
    "IQ4_NL",
    "IQ4_XS",
    "MXFP4",
)


@pytest.mark.parametrize("name", ["F32", "F16", "BF16", *QUANTIZED])
def test_each_type_is_read_as_gguf_reads_it(tmp_path: Path, name: str) -> None:
    kind = TYPES[name]
    shape = (600, 512)  # more than one piece
    block, size = gguf.GGML_QUANT_SIZES[kind]
    # No byte with its highest bits set, so that every scale is finite.
    stored = np.random.default_rng(0).integers(0, 64, (shape[0], shape[1] // block * size), dtype=np.uint8)
    if name in ("F32", "F16"):
        stored = stored.view(np.float32 if name == "F32" else np.float16)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_head_count(4)
    writer.add_tensor("blk.3.ffn_down.weight", stored, raw_dtype=kind)
    finish(writer, tmp_path / "m.gguf")
    tensors = GgufTensors(tmp_path / "m.gguf")
    down = "model.layers.3.mlp.down_proj.weight"
    assert down in tensors
    assert (tensors.shape(down), tensors.dtype(down)) == (shape, name if name in ("F32", "F16", "BF16") else "F32")
    np.testing.assert_array_equal(tensors[down].float().numpy(), gguf.dequantize(stored, kind))


def test_a_tensor_is_dequantized_in_pieces(tmp_path: Path) -> None:
    """The temporary memory of reading does not grow with the tensor."""
    shape, kind = (2048, 4096), TYPES.Q4_K
    block, size = gguf.GGML_QUANT_SIZES[kind]
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "llama")
    writer.add_head_count(4)
    stored = np.zeros((shape[0], shape[1] // block * size), dtype=np.uint8)
    writer.add_tensor("blk.0.ffn_down.weight", stored, raw_dtype=kind)
    finish(writer, tmp_path / "m.gguf")
    tensors = GgufTensors(tmp_path / "m.gguf")
    tracemalloc.start()  # numpy's memory; the result is torch's
    try:
        result = tensors["model.layers.0.mlp.down_proj.weight"]
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert result.nbytes == 4 * shape[0] * shape[1]
    assert peak < result.nbytes / 4


def greedy_text(model: Path) -> str:
    options = EngineOptions(dtype=Dtype.BFLOAT16, quant=Quant.NONE)
    with Session(str(model), "none", options) as session:
        events = session.generate("the dog", raw=True, sampling=SamplingChoice(temperature=0), max_new_tokens=40)
        [finished] = [event for event in events if isinstance(event, Finished)]
    return finished.text


@pytest.mark.parametrize("kind", [TYPES.F32, TYPES.BF16, TYPES.Q8_0, TYPES.Q4_0], ids=str)
def test_both_formats_of_a_model_give_the_same_text_in_bfloat16(tmp_path: Path, kind: Any) -> None:
    folder = made(tmp_path, MODELS["llama"] | {"vocab_size": 320})
    write_tokenizer(folder)
    (folder / "generation_config.json").write_text('{"eos_token_id": 0}')
    weights = {name: weight.bfloat16() for name, weight in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    path = write_gguf(tmp_path / "m.gguf", folder, kind, tokenizer=True).path
    for name, weight in weights.items():  # as the file has them, which rounds to bfloat16 once more
        if weight.ndim == 2:
            stored = gguf.quantize(weight.float().numpy(), kind)
            weights[name] = torch.from_numpy(gguf.dequantize(stored, kind)).bfloat16()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    text = greedy_text(path)
    assert len(text) > 20
    assert text == greedy_text(folder)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"expert_count": 8}, "llama.expert_count in the GGUF header"),
        ({"attention__head_count_kv": [2, 2, 1, 2]}, "llama.attention.head_count_kv is a list"),
        ({"attention__value_length": 8}, "values of another size than keys"),
        ({"attention__key_length": 0}, "attention.key_length 0"),
        ({"attention__head_count": "4"}, "attention.head_count '4'"),
        ({"rope__freq_base": "1"}, "rope.freq_base '1'"),
        ({"rope__dimension_count": 8}, "rotary dimensions that are fewer than a head's"),
        ({"rope__scaling__type": "longrope"}, "the rope scaling 'longrope'"),
        ({"attention__layer_norm_rms_epsilon": 0.0}, "rms_norm_eps 0.0"),
        ({"block_count": 5}, "no tensor model.layers.4.self_attn.q_proj.weight"),
    ],
)
def test_a_header_that_is_not_understood_is_left_to_transformers(
    tmp_path: Path, more: dict[str, Any], reason: str
) -> None:
    checkpoint = write_gguf(tmp_path / "m.gguf", made(tmp_path, MODELS["llama"]), **more)
    assert read_checkpoint_architecture(checkpoint) == reason


@pytest.mark.parametrize("key", ["block_count", "attention__head_count", "embedding_length"])
@pytest.mark.parametrize("architecture", ["llama", "other"])
def test_an_impossible_count_names_the_file_and_the_key(tmp_path: Path, architecture: str, key: str) -> None:
    checkpoint = write_gguf(tmp_path / "m.gguf", made(tmp_path, MODELS["llama"]), **{key: 1_000_000_000})
    checkpoint.path.write_bytes(checkpoint.path.read_bytes().replace(b"llama", architecture.encode()))
    name = f"{architecture}.{key.replace('__', '.')}"
    with pytest.raises(BadFile, match=rf"m\.gguf: {name} is 1000000000, not a whole number from 1 to"):
        read_checkpoint_architecture(checkpoint)


def test_a_block_that_no_layer_reads_is_refused(tmp_path: Path) -> None:
    checkpoint = write_gguf(tmp_path / "M", made(tmp_path, MODELS["llama"]), block_count=3)
    with pytest.raises(UnsupportedModel, match=r"the tensor blk\.3\.\w+\.weight is not part of this architecture"):
        read_checkpoint_architecture(checkpoint)


def test_a_type_that_is_not_read_is_left_to_transformers(tmp_path: Path) -> None:
    folder = made(tmp_path, MODELS["llama"] | {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64})
    checkpoint = write_gguf(tmp_path / "m.gguf", folder, TYPES.TQ1_0)
    assert str(read_checkpoint_architecture(checkpoint)).endswith(".weight of dtype TQ1_0")


def test_rope_factors_that_no_parameters_explain_are_left_to_transformers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = made(tmp_path, MODELS["llama, llama3 rope"])
    odd = np.linspace(1, 8, 8, dtype=np.float32)
    monkeypatch.setattr("tests.gguf_files._llama3_factors", lambda *_: odd)
    assert read_checkpoint_architecture(write_gguf(tmp_path / "m.gguf", folder)) == "rope factors of an unknown kind"


def test_a_run_imports_no_transformers(tmp_path: Path) -> None:
    folder = made(tmp_path, MODELS["llama"] | {"vocab_size": 320})
    checkpoint = write_gguf(tmp_path / "m.gguf", folder, TYPES.Q8_0, tokenizer=True)
    script = """
import sys
from specgen.cli.main import main
try:
    main()
finally:
    print("transformers" in sys.modules, file=sys.stderr)
"""
    command = ["run", "-m", str(checkpoint.path), "--draft", "none", "--temp", "0", "-n", "6", "--verbose", "the dog"]
    result = subprocess.run(
        [sys.executable, "-c", script, *command], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=True
    )
    assert result.stdout.strip()
    assert result.stderr.split("\n")[-2:] == ["False", ""]
    assert "transformers:" not in result.stderr
    assert "%" not in result.stderr  # no bars


def test_verbose_says_why_a_file_runs_on_transformers(tmp_path: Path) -> None:
    folder = made(tmp_path, MODELS["llama"] | {"vocab_size": 320})
    checkpoint = write_gguf(tmp_path / "m.gguf", folder, tokenizer=True, expert_used_count=2)
    events: list[Any] = []
    follow(open_pair(checkpoint.ref, "none", EngineOptions(verbose=True)), events.append)
    reason = "llama.expert_used_count in the GGUF header"
    assert Notice(f"{checkpoint.path} runs on transformers: {reason}") in events
