"""Prove the decoding loop on one GPU, unattended: tests, identity, speed, memory, peers.

    python docs/bench/gpu.py --json gpu.json       # about eight minutes on a data-centre GPU
    python docs/bench/gpu.py --quick               # tiny shapes, any device, under a minute
    python docs/bench/gpu.py --parts machine exact # some parts only

It downloads nothing. Models have random weights of true shapes; the target's layers after the draft's are scaled down,
so that a draft of its first layers guesses well. It needs torch, transformers, tokenizers and safetensors; the script
names what else is missing. A part that fails is reported, and the next one runs.
"""

import argparse
import importlib.util
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
NEEDED = ("torch", "transformers", "tokenizers", "safetensors", "llguidance", "gguf", "platformdirs")
if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
    sys.exit(f"these packages are missing: {' '.join(missing)}")
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from safetensors.torch import save_file  # noqa: E402

from specgen import Session  # noqa: E402
from specgen.core.events import Failed, Finished, Notice, Stats, Step  # noqa: E402
from specgen.core.tokens import Tokens  # noqa: E402
from specgen.core.types import Device, Dtype, EngineOptions, Quant, SamplingChoice  # noqa: E402
from specgen.nn.lean import static  # noqa: E402

CUDA = torch.cuda.is_available()
THREADS: dict[str, int] = {} if CUDA else {"threads": 1}
DEVICE = torch.device("cuda" if CUDA else "cpu")
WIDTH = 8  # rows of a static pass
PROMPTS = (
    "Once upon a time there was a king who had a daughter.",
    "The little boat went out to sea, and the wind was cold and strong.",
    "In the middle of the forest stood a house, and in the house lived an old woman.",
    "One two three four. One two three four. One two three four. One two three",
    "The fox said to the crow: what a fine voice you must have!",
    "A poor miller had three sons, his mill, his donkey and his cat.",
    "It was so cold that the river froze, and the children walked across it to school.",
    "There came a soldier marching down the road: left, right, left, right.",
    "The moon looked down at the town and told this story.",
    "Far away in the land where the swallows fly in winter lived a man with eleven sons.",
)
GREEDY, SEEDED = SamplingChoice(temperature=0.0), SamplingChoice(temperature=0.8, top_p=0.95, seed=1)


@dataclass(frozen=True)
class Shape:
    """The size of a Llama model. `scaled` layers at the end are scaled down, so that the first ones decide the text."""

    hidden: int
    layers: int
    heads: int
    key_heads: int
    inner: int
    vocabulary: int
    scaled: int = 0

    def config(self) -> dict[str, Any]:
        """config.json."""
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "hidden_size": self.hidden,
            "intermediate_size": self.inner,
            "num_hidden_layers": self.layers,
            "num_attention_heads": self.heads,
            "num_key_value_heads": self.key_heads,
            "head_dim": self.hidden // self.heads,
            "vocab_size": self.vocabulary,
            "max_position_embeddings": 8192,
            "rms_norm_eps": 1e-5,
            "rope_theta": 500000.0,
            "hidden_act": "silu",
            "tie_word_embeddings": False,
            "torch_dtype": "bfloat16",
            "bos_token_id": 0,
            "eos_token_id": self.vocabulary - 1,
        }


EIGHT = Shape(4096, 32, 32, 8, 14336, 128256, scaled=28)  # Llama 3.1 8B
ONE = Shape(2048, 16, 32, 8, 8192, 128256, scaled=12)  # Llama 3.2 1B
TINY = Shape(64, 6, 4, 2, 128, 4352, scaled=4)
DRAFT_LAYERS = {EIGHT: 4, ONE: 4, TINY: 2}
SCALE = 0.02  # of the output projections of `scaled` layers: about four of five drafted tokens are accepted


class Report:
    """Prints figures as they come, and keeps them for the JSON file."""

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self.figures: dict[str, Any] = {}
        self.started = time.perf_counter()

    def add(self, name: str, value: Any) -> None:
        """Print one figure and write the file anew."""
        self.figures[name] = value
        print(f"[{time.perf_counter() - self.started:6.1f} s] {name}: {value}", flush=True)
        if self._path:
            self._path.write_text(json.dumps(self.figures, indent=1, default=str))


def wait() -> None:
    """Let the device finish."""
    if CUDA:
        torch.cuda.synchronize()


def seconds(work: Callable[[], object], runs: int = 5) -> float:
    """Median time of `work`, in seconds, the device included, after one run that is not counted."""
    work()
    times = []
    for _ in range(runs):
        wait()
        start = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


def make_models(folder: Path, shape: Shape) -> tuple[Path, Path]:
    """Write a target of `shape` and a draft of its first layers, both in bfloat16; the folders."""
    target, draft = folder / "target", folder / "draft"
    kept = DRAFT_LAYERS[shape]
    generator = torch.Generator(DEVICE).manual_seed(0)

    def drawn(rows: int, columns: int, scale: float = 1.0) -> torch.Tensor:
        values = torch.randn(rows, columns, generator=generator, device=DEVICE) * (0.02 * scale)
        return values.to("cpu", torch.bfloat16)

    keys = shape.key_heads * shape.hidden // shape.heads
    weights = {
        "model.embed_tokens.weight": drawn(shape.vocabulary, shape.hidden),
        "lm_head.weight": drawn(shape.vocabulary, shape.hidden),
        "model.norm.weight": torch.ones(shape.hidden, dtype=torch.bfloat16),
    }
    for layer in range(shape.layers):
        scale = SCALE if layer >= shape.layers - shape.scaled else 1.0
        for name, rows, columns, factor in (
            ("self_attn.q_proj", shape.hidden, shape.hidden, 1.0),
            ("self_attn.k_proj", keys, shape.hidden, 1.0),
            ("self_attn.v_proj", keys, shape.hidden, 1.0),
            ("self_attn.o_proj", shape.hidden, shape.hidden, scale),
            ("mlp.gate_proj", shape.inner, shape.hidden, 1.0),
            ("mlp.up_proj", shape.inner, shape.hidden, 1.0),
            ("mlp.down_proj", shape.hidden, shape.inner, scale),
        ):
            weights[f"model.layers.{layer}.{name}.weight"] = drawn(rows, columns, factor)
        for name in ("input_layernorm", "post_attention_layernorm"):
            weights[f"model.layers.{layer}.{name}.weight"] = torch.ones(shape.hidden, dtype=torch.bfloat16)
    first = {
        name: each
        for name, each in weights.items()
        if not name.startswith("model.layers.") or int(name.split(".")[2]) < kept
    }
    for path, layers, tensors in ((target, shape.layers, weights), (draft, kept, first)):
        path.mkdir(parents=True)
        config = replace(shape, layers=layers).config()
        (path / "config.json").write_text(json.dumps(config))
        save_file(tensors, path / "model.safetensors", {"format": "pt"})
        write_tokenizer(path, shape.vocabulary)
    return target, draft


def write_tokenizer(path: Path, vocabulary: int) -> None:
    """The tokenizer of the bundled pair, with words for the ids that it lacks."""
    bundled = ROOT / "specgen" / "checkpoint" / "bundled" / "stories" / "target"
    tokenizer = json.loads((bundled / "tokenizer.json").read_text())
    known = tokenizer["model"]["vocab"]
    known |= {f"<w{index}>": index for index in range(len(known), vocabulary)}
    (path / "tokenizer.json").write_text(json.dumps(tokenizer))
    shutil.copy(bundled / "tokenizer_config.json", path)


def open_session(target: Path, draft: str | Path, k: int | None, dtype: Dtype, **options: Any) -> Session:
    """An open session. Prints what it says while it loads."""
    device = Device.CUDA if CUDA else Device.CPU
    engine = EngineOptions(
        device=device, dtype=dtype, num_draft_tokens=k, offline=True, lookup=False, **THREADS, **options
    )
    session = Session(str(target), str(draft), engine)
    for event in session.open():
        if isinstance(event, Notice):
            print(f"notice: {event}", flush=True)
    return session


def answer(session: Session, prompt: str, sampling: SamplingChoice, tokens: int) -> tuple[list[int], Stats]:
    """The ids and the statistics of one answer."""
    ids: list[int] = []
    for event in session.generate(prompt, raw=True, sampling=sampling, max_new_tokens=tokens):
        if isinstance(event, Failed):
            raise event.error
        if isinstance(event, Step):
            ids += event.tokens
        if isinstance(event, Finished):
            return ids, event.stats
    raise AssertionError("a stream ends in Finished or Failed")


def machine(report: Report, _: argparse.Namespace) -> None:
    """What computes here, and how fast its memory is."""
    report.add("torch", torch.__version__)
    if CUDA:
        properties = torch.cuda.get_device_properties(0)
        report.add("device", f"{properties.name}, {properties.total_memory / 1e9:.0f} GB")
        source = torch.empty(1 << 31, dtype=torch.uint8, device=DEVICE)
        target = torch.empty_like(source)
        took = seconds(lambda: target.copy_(source))
        report.add("bandwidth_gb_s", round(2 * source.nbytes / took / 1e9))
        del source, target
        torch.cuda.empty_cache()
    doctor = subprocess.run(
        [sys.executable, "-m", "specgen", "doctor", "--offline"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    print(doctor.stdout + doctor.stderr, flush=True)


def products(report: Report, arguments: argparse.Namespace) -> None:
    """Gigabytes of weights a second in products of 1, 8 and 16 rows; whether a row's bits depend on the others."""
    shape = TINY if arguments.quick else EIGHT
    keys = shape.key_heads * shape.hidden // shape.heads
    for name, out, inner in (
        ("qkv", shape.hidden + 2 * keys, shape.hidden),
        ("output", shape.hidden, shape.hidden),
        ("gate_up", 2 * shape.inner, shape.hidden),
        ("down", shape.hidden, shape.inner),
        ("head", shape.vocabulary, shape.hidden),
    ):
        weights = [torch.randn(out, inner, device=DEVICE).bfloat16() for _ in range(4 if CUDA else 1)]
        row = torch.randn(16, inner, device=DEVICE).bfloat16()
        rates = {}
        for count in (1, WIDTH, 16):
            took = seconds(lambda: [torch.nn.functional.linear(row[:count], each) for each in weights])  # noqa: B023
            rates[count] = round(sum(each.nbytes for each in weights) / took / 1e9)
        whole = torch.nn.functional.linear(row[:WIDTH], weights[0])
        turned = torch.nn.functional.linear(row[:WIDTH].roll(3, 0), weights[0]).roll(-3, 0)
        alone = torch.nn.functional.linear(row[:1].expand(WIDTH, -1), weights[0])[0]
        same = torch.equal(whole, turned) and torch.equal(whole[0], alone)
        report.add(f"product_{name}", {"gb_s_by_rows": rates, "row_independent_of_others": same})


def tests(report: Report, arguments: argparse.Namespace) -> None:
    """The tests that need a GPU."""
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-p", "no:cacheprovider", "tests/nn", "tests/engine"]
    if arguments.quick:
        command.append("--collect-only")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)
    print(done.stdout[-6000:] + done.stderr[-2000:], flush=True)
    lines = done.stdout.strip().splitlines()
    report.add("cuda_tests", lines[-1].strip() if lines else f"exit code {done.returncode}")


def exact(report: Report, arguments: argparse.Namespace) -> None:
    """Whether every answer with a draft is that of plain decoding: greedy and seeded, every draft length."""
    shape = TINY if arguments.quick else ONE
    tokens, prompts = (12, PROMPTS[:2]) if arguments.quick else (64, PROMPTS)
    lengths = (None, 4) if arguments.quick else (None, 1, 2, 3, 4, 5, 6, 7, 11)
    with tempfile.TemporaryDirectory() as folder:
        target, draft = make_models(Path(folder), shape)
        for dtype in (Dtype.BFLOAT16, Dtype.FLOAT32):
            compare_texts(report, f"exact_{dtype.value}", target, draft, dtype, lengths, prompts, tokens)


def compare_texts(
    report: Report,
    name: str,
    target: Path,
    draft: Path,
    dtype: Dtype,
    lengths: tuple[int | None, ...],
    prompts: tuple[str, ...],
    tokens: int,
) -> None:
    """Compare answers of each draft length, and of lookup, with those of plain decoding."""
    asked = [(prompt, how) for prompt in prompts for how in (GREEDY, SEEDED)]
    session = open_session(target, draft, None, dtype)

    def found(k: int | None, *, speculating: bool = True) -> list[tuple[list[int], Stats]]:
        over = Session.over(session.pair, replace(session.pair.options, num_draft_tokens=k))
        over.speculating = speculating
        return [answer(over, prompt, how, tokens) for prompt, how in asked]

    plain = [ids for ids, _ in found(None, speculating=False)]
    again = [ids for ids, _ in found(None, speculating=False)]
    report.add(f"{name}_plain_repeats", f"{sum(map(list.__eq__, plain, again))} of {len(plain)} identical")
    for k in (*lengths, "lookup"):
        if k == "lookup":
            list(session.change_draft("lookup"))
        answers = found(None if k == "lookup" else k)  # type: ignore[arg-type]
        same = sum(ids == expected for (ids, _), expected in zip(answers, plain, strict=True))
        drafted = sum(stats.drafted_tokens for _, stats in answers)
        accepted = sum(stats.accepted_tokens for _, stats in answers)
        share = f"{accepted / drafted:.2f}" if drafted else "-"
        label = f"k={k or 'auto'}"
        report.add(f"{name}_{label}", f"{same} of {len(plain)} identical, {drafted} drafted, acceptance rate {share}")
    session.close()


def speed(report: Report, arguments: argparse.Namespace) -> None:
    """Tokens a second of the large pair, beside the bound of memory, the formula and transformers."""
    shape = TINY if arguments.quick else EIGHT
    tokens = 16 if arguments.quick else 256
    with tempfile.TemporaryDirectory() as folder:
        target, draft = make_models(Path(folder), shape)
        report.add("models_made", f"{sum(path.stat().st_size for path in target.iterdir()) / 1e9:.1f} GB target")
        if CUDA:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        start = time.perf_counter()
        session = open_session(target, draft, None, Dtype.BFLOAT16)
        report.add("load_s", round(time.perf_counter() - start, 1))
        passes(report, session)
        answers(report, session, tokens)
        plan_memory(report, target, draft)
        profile(report, session)
        session.close()
        del session
        any_width(report, target, draft, tokens)
        if "peers" in arguments.parts:
            peers(report, target, draft, min(tokens, 96))


def passes(report: Report, session: Session) -> None:
    """Times of single passes of target and draft, and what capturing a graph costs."""
    pair = session.pair
    assert pair.draft is not None
    ids = torch.randint(1, 4000, (1200,), generator=torch.Generator().manual_seed(1)).tolist()

    def one(model: Any, length: int, last: int) -> Callable[[], object]:
        model.forward(Tokens(ids[:length]), 1)
        count = iter(range(length + 1, 1200))

        def step() -> object:
            end = next(count)
            context = Tokens(ids[:end])
            return model.forward(context, 1) if last == 1 else model.forward(context + ids[:last], last + 1)

        return step

    for name, model in (("target", pair.target), ("draft", pair.draft)):
        report.add(f"{name}_pass_ms", round(seconds(one(model, 100, 1), 15) * 1e3, 3))
        report.add(f"{name}_pass_4_drafted_ms", round(seconds(one(model, 100, 4), 15) * 1e3, 3))
        start = time.perf_counter()
        model.forward(Tokens(ids[:600]), 1)
        wait()
        first = time.perf_counter() - start
        report.add(f"{name}_prompt_of_600_with_new_cache_s", round(first, 3))
        model.forward(Tokens([1, 2, 3]), 1)
        report.add(f"{name}_prompt_of_600_s", round(seconds(lambda: fresh(model, ids), 3), 4))  # noqa: B023
        report.add(f"{name}_prompt_of_1200_s_by_chunk", chunks(model, ids))
    reported = report.figures
    if "bandwidth_gb_s" in reported:
        read = sum(path.stat().st_size for path in pair.checkpoint.path.glob("*.safetensors"))
        embedding = EIGHT.vocabulary * EIGHT.hidden * 2
        bound = (read - embedding) / reported["bandwidth_gb_s"] / 1e6
        report.add("target_bound_ms", round(bound, 3))
        report.add("share_of_bandwidth", round(bound / reported["target_pass_ms"], 3))


def chunks(model: Any, ids: list[int]) -> dict[int, float]:
    """Seconds to read a prompt of 1,200 tokens in passes of 256, 512 and 1,024 tokens."""
    chosen, took = static.CHUNK, {}
    try:
        for static.CHUNK in (256, 512, 1024):
            took[static.CHUNK] = round(seconds(lambda: fresh(model, ids, 1200), 3), 4)
    finally:
        static.CHUNK = chosen
    return took


def plan_memory(report: Report, target: Path, draft: Path) -> None:
    """The memory plan of the open pair, and on CUDA the peak. Prompts have let caches grow to 2,048 tokens."""
    plan = ["plan", "-m", str(target), "-d", str(draft), "--ctx-size", "2040", "--offline", "--json"]
    done = subprocess.run(
        [sys.executable, "-m", "specgen", *plan], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if done.returncode:
        report.add("memory_plan", done.stderr[-300:])
        return
    planned = json.loads(done.stdout)
    report.add("memory_plan", planned)
    if CUDA:
        peak = torch.cuda.max_memory_allocated()
        report.add("memory_allocated_peak_gb", round(peak / 1e9, 2))
        report.add("memory_plan_over_peak", round(planned["total"] / peak, 3))


def profile(report: Report, session: Session, name: str = "profile_ms_a_pass") -> None:
    """Milliseconds a plain pass spends in each kernel."""
    model, ids = session.pair.target, list(range(1, 220))
    model.forward(Tokens(ids[:200]), 1)
    activity = torch.profiler.ProfilerActivity.CUDA if CUDA else torch.profiler.ProfilerActivity.CPU
    spent = "self_device_time_total" if CUDA else "self_cpu_time_total"
    with torch.profiler.profile(activities=[activity]) as recorded:
        for end in range(201, 211):
            model.forward(Tokens(ids[:end]), 1)
        wait()
    rows = sorted(recorded.key_averages(), key=lambda row: -getattr(row, spent))[:14]
    report.add(name, {row.key[:60]: round(getattr(row, spent) / 1e4, 3) for row in rows})


def any_width(report: Report, target: Path, draft: Path, tokens: int) -> None:
    """What exactness costs: passes and answers without it, and how many answers then differ."""
    session = open_session(target, draft, 3, Dtype.BFLOAT16, exact=False)
    model, ids = session.pair.target, list(range(1, 400))
    model.forward(Tokens(ids[:100]), 1)
    for rows in (1, 4, 8):
        ends = iter(range(100, 400))
        took = seconds(lambda: model.forward(Tokens(ids[: next(ends)]) + ids[: rows - 1], rows), 15)  # noqa: B023
        report.add(f"any_width_pass_of_{rows}_ms", round(took * 1e3, 3))
    found = [answer(session, prompt, GREEDY, tokens)[0] for prompt in PROMPTS[1:5]]
    session.speculating = False
    plain = [answer(session, prompt, GREEDY, tokens) for prompt in PROMPTS[1:5]]
    report.add("any_width_plain_tok_s", round(statistics.median(stats.tokens_per_second for _, stats in plain), 1))
    same = sum(ids == other for ids, (other, _) in zip(found, plain, strict=True))
    report.add("any_width_text", f"{same} of {len(plain)} identical to plain decoding at k=3")
    session.close()


def fresh(model: Any, ids: list[int], length: int = 600) -> None:
    """Read a prompt of `length` tokens that shares nothing with the cache."""
    model.forward(Tokens([4001, 2, 3]), 1)
    model.forward(Tokens(ids[:length]), 1)


def answers(report: Report, session: Session, tokens: int) -> None:
    """Whole answers: plain, with the draft at several lengths, with lookup; medians over prompts."""
    device = Device.CUDA if CUDA else Device.CPU
    plain_ids: list[list[int]] = []
    pass_s = report.figures["target_pass_ms"] / 1e3
    wide_s = report.figures["target_pass_4_drafted_ms"] / 1e3
    draft_s = report.figures["draft_pass_ms"] / 1e3
    plain_rate = 0.0
    for label, k in (("plain", 0), ("draft_k3", 3), ("draft_k5", 5), ("draft_k7", 7), ("draft_auto", None)):
        options = EngineOptions(device=device, dtype=Dtype.BFLOAT16, num_draft_tokens=k, offline=True, lookup=False)
        with_k = Session.over(session.pair, options)
        with_k.speculating = label != "plain"
        answer(with_k, PROMPTS[0], GREEDY, tokens)
        found = [answer(with_k, prompt, GREEDY, tokens) for prompt in PROMPTS[1:4]]
        rate = statistics.median(stats.tokens_per_second for _, stats in found)
        forwards = sum(stats.draft_s + stats.verify_s for _, stats in found)
        outside = 1 - forwards / sum(stats.elapsed_s for _, stats in found)
        figures: dict[str, Any] = {"tok_s": round(rate, 1), "share_outside_forwards": round(outside, 3)}
        if label == "plain":
            plain_ids, plain_rate = [ids for ids, _ in found], rate
        else:
            tau = sum(stats.generated_tokens for _, stats in found) / sum(stats.rounds for _, stats in found)
            mean_k = sum(stats.drafted_tokens for _, stats in found) / sum(stats.rounds for _, stats in found)
            foreseen = tau * pass_s / (mean_k * draft_s + wide_s)
            figures |= {
                "mean_acceptance_length": round(tau, 2),
                "speed_up": round(rate / plain_rate, 2),
                "speed_up_by_formula": round(foreseen, 2),
                "share_of_formula": round(rate / plain_rate / foreseen, 2),
                "same_text": all(ids == other for (ids, _), other in zip(found, plain_ids, strict=True)),
            }
        report.add(label, figures)


def peers(report: Report, target: Path, draft: Path, tokens: int) -> None:
    """transformers' plain and assisted generation of the same prompts."""
    from specgen.bench.peers import load_peers  # noqa: PLC0415
    from specgen.checkpoint.checkpoint import Checkpoint  # noqa: PLC0415
    from specgen.core.types import ModelRef  # noqa: PLC0415
    from specgen.session.prompt import raw_prompt, read_tokenizer  # noqa: PLC0415

    if CUDA:
        torch.cuda.empty_cache()
    checkpoints = [Checkpoint(ModelRef(str(path)), path) for path in (target, draft)]
    prompts = [raw_prompt(read_tokenizer(checkpoints[0], EngineOptions()), text).ids for text in PROMPTS[:4]]
    for peer in load_peers(checkpoints[0], checkpoints[1], Dtype.BFLOAT16, DEVICE):
        peer.run(prompts[0], 8)
        rates = [peer.run(prompt, tokens).stats.tokens_per_second for prompt in prompts[1:]]
        report.add(f"{peer.name} tok_s", round(statistics.median(rates), 1))


def quantized(report: Report, arguments: argparse.Namespace) -> None:
    """The 8B pair with weights of 4 and of 8 bits: memory, speed, and whether a draft changes the text."""
    if not CUDA:
        report.add("quantized", "needs a GPU")
        return
    with tempfile.TemporaryDirectory() as folder:
        target, draft = make_models(Path(folder), TINY if arguments.quick else EIGHT)
        for quant in (Quant.INT4, Quant.INT8):
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
            session = open_session(target, draft, 3, Dtype.BFLOAT16, quant=quant)
            report.add(f"{quant.value}_load_peak_gb", round(torch.cuda.max_memory_allocated() / 1e9, 2))
            found = [answer(session, prompt, GREEDY, 96) for prompt in PROMPTS[:4]]
            session.speculating = False
            plain = [answer(session, prompt, GREEDY, 96) for prompt in PROMPTS[:4]]
            same = sum(ids == other for (ids, _), (other, _) in zip(found, plain, strict=True))
            rates = [statistics.median(stats.tokens_per_second for _, stats in each) for each in (plain, found)]
            report.add(
                quant.value,
                {
                    "plain_tok_s": round(rates[0], 1),
                    "draft_k3_tok_s": round(rates[1], 1),
                    "identical": f"{same} of {len(plain)}",
                    "prompt_of_600_s": round(seconds(lambda: fresh(session.pair.target, list(range(1, 601))), 3), 3),  # noqa: B023
                    "memory_peak_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2),
                },
            )
            profile(report, session, f"{quant.value}_profile_ms_a_pass")
            session.close()


PARTS: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    "machine": machine,
    "products": products,
    "tests": tests,
    "exact": exact,
    "speed": speed,
    "quantized": quantized,
}


def main() -> None:
    """Run every part that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tiny shapes, any device")
    parser.add_argument("--json", type=Path, help="write the figures to this file, anew after each of them")
    parser.add_argument("--parts", nargs="+", choices=[*PARTS, "peers"], default=[*PARTS, "peers"])
    arguments = parser.parse_args()
    report = Report(arguments.json)
    if not CUDA:
        torch.set_num_threads(1)  # threads only wait for each other over tiny tensors
    for name, part in PARTS.items():
        if name in arguments.parts:
            try:
                part(report, arguments)
            except Exception:
                report.add(f"{name}_failed", traceback.format_exc()[-3000:])


if __name__ == "__main__":
    main()
