"""Train the bundled story models: a deep, narrow target, a one-layer draft distilled from it, then both to agree.

The corpus is one text file: public-domain books parted by a line `<|book|>`, one paragraph a line. The card of
the bundled models names the books, their order and their clean-up. Run the steps in this order (RUN is any
folder; training that was stopped goes on from its last checkpoint when it is started again):

    python train.py tokenizer CORPUS RUN
    python train.py target CORPUS RUN
    python train.py sample CORPUS RUN      # text by the target, for the draft to learn from
    python train.py draft CORPUS RUN       # distilled from the target
    python train.py control CORPUS RUN     # the same draft without distillation, to compare with
    python train.py agree CORPUS RUN       # target and draft together, so that they differ less
    python train.py export CORPUS RUN --out OUT

It needs torch (2.9 or newer, for Muon) and transformers; a C++ compiler makes it about 1.4 times as fast.
"""

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

END = "<|endoftext|>"  # begins every text and parts the books
FAST = torch.ops.mkldnn._is_mkldnn_bf16_supported()  # whether the processor multiplies in bfloat16


@dataclass(frozen=True)
class Plan:
    """How long to train, and how fast: the rate rises for `warmup` steps, and falls to 0 in the last share `decay`."""

    steps: int
    learning_rate: float = 3e-3
    warmup: int = 100
    decay: float = 0.3


@dataclass(frozen=True)
class Settings:
    """Every number of the recipe; the card repeats the ones a reader asks for."""

    held_out: tuple[int, ...] = (29, 32)  # by place in the corpus: The Road to Oz, The Violet Fairy Book
    vocabulary: int = 4096
    context: int = 512
    width: int = 256
    heads: int = 4
    layers: int = 10  # deep and narrow: the draft's one layer saves the more
    mlp: int = 512
    draft_mlp: int = 768
    batch: int = 8192  # tokens a step
    long_share: float = 0.15  # the last share of the steps, with windows of a whole context; before: half, for speed
    weight_decay: float = 0.1
    target: Plan = Plan(1880)
    draft: Plan = Plan(2200)
    agreement: Plan = Plan(100, learning_rate=1e-3, warmup=30, decay=0.01)
    agreement_share: float = (
        0.3  # of the way that both went in it; all of it, and the target says the same again and again
    )
    agreement_batch: int = 1024  # tokens a step of the books, and as many of the target's own text
    settling: Plan = Plan(110, learning_rate=1e-3, warmup=10, decay=1.0)
    settling_batch: int = 4096
    sampled_batches: int = 16  # each of `sampled_rows` texts of half a context
    sampled_rows: int = 128
    sampled_prompt: int = 24  # tokens of the corpus that each sampled text begins with
    greedy_share: float = 0.375  # of the sampled batches
    temperature: float = 0.6
    top_p: float = 0.9
    save_every: int = 50
    seed: int = 1


S = Settings()


def read_books(path: Path) -> tuple[list[str], list[str]]:
    """Give the books to train on and the held-out ones."""
    books = [book.strip("\n") for book in path.read_text(encoding="utf-8").split("<|book|>\n")]
    train = [book for i, book in enumerate(books) if i not in S.held_out]
    return train, [books[i] for i in S.held_out]


def train_tokenizer(books: list[str], run: Path) -> None:
    """Train byte-level BPE; its post-processor puts END before a text, so that every tool does."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=S.vocabulary, special_tokens=[END], initial_alphabet=alphabet)
    tokenizer.train_from_iterator(books, trainer)
    begin = processors.TemplateProcessing(single=f"{END} $A", pair=f"{END} $A $B", special_tokens=[(END, 0)])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), begin])
    folder = run / "tokenizer"
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = dict.fromkeys(("bos_token", "eos_token", "pad_token"), END)
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": S.context}
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")


class Corpus:
    """The tokens of the books, as training batches and as held-out windows."""

    def __init__(self, path: Path, run: Path) -> None:
        tokenizer = Tokenizer.from_file(str(run / "tokenizer" / "tokenizer.json"))
        train, held_out = ([torch.tensor(tokenizer.encode(book).ids) for book in books] for books in read_books(path))
        self.tokens = torch.cat(train)  # each book begins with END
        newline = tokenizer.token_to_id("Ċ")
        self.paragraphs = (self.tokens == newline).nonzero().flatten() + 1
        size = S.context
        rows = [row for book in held_out for row in book[1:].split(size) if len(row) == size]
        self.held_out = torch.stack([self.begin(row) for row in rows])
        # Byte-level BPE writes each byte as one character, so a token's length is its number of bytes.
        lengths = torch.tensor([len(tokenizer.id_to_token(i)) for i in range(S.vocabulary)])
        self.bytes_per_token = lengths[self.held_out[:, 1:]].float().mean().item()

    @staticmethod
    def begin(row: Tensor) -> Tensor:
        """Put END (token 0) before a row of tokens."""
        return functional.pad(row, (1, 0), value=0)

    def batch(self, step: int, size: int, tokens: int = S.batch) -> Tensor:
        """Give the windows of a step: each begins at a paragraph, at places that differ in every epoch."""
        per_epoch, rows = len(self.tokens) // tokens, tokens // size
        epoch, place = divmod(step, per_epoch)
        random = torch.Generator().manual_seed(S.seed + epoch)
        starts = torch.arange(per_epoch * rows) * size + torch.randint(size, (1,), generator=random)
        starts = starts[torch.randperm(len(starts), generator=random)][place * rows : (place + 1) * rows]
        after = torch.searchsorted(self.paragraphs, starts - 32)  # about as often a little before as after
        starts = self.paragraphs[after.clamp(max=len(self.paragraphs) - 1)].clamp(max=len(self.tokens) - size)
        return torch.stack([self.begin(self.tokens[i : i + size]) for i in starts])


def new_model(layers: int, mlp: int) -> LlamaForCausalLM:
    """Make a Llama of our width with random weights."""
    torch.manual_seed(S.seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=S.vocabulary,
            hidden_size=S.width,
            intermediate_size=mlp,
            num_hidden_layers=layers,
            num_attention_heads=S.heads,
            num_key_value_heads=S.heads,
            max_position_embeddings=S.context,
            tie_word_embeddings=True,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=None,
            use_cache=False,
        )
    )


def logits_of(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Run the model in bfloat16 arithmetic where that is faster; its weights stay in float32."""
    with torch.autocast("cpu", torch.bfloat16, enabled=FAST):
        return model(input_ids=tokens).logits


def next_token_loss(model: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Give the mean loss in nats per token."""
    return functional.cross_entropy(logits_of(model, tokens[:, :-1]).float().flatten(0, 1), tokens[:, 1:].flatten())


def distillation_loss(draft: LlamaForCausalLM, target: LlamaForCausalLM, tokens: Tensor) -> Tensor:
    """Give KL(target || draft) plus twice their total variation, at the temperature of the default sampling.

    The draft learns all that the target would say, not only what was written. The total variation is the chance
    that the best coupling of the two rejects a token, so it aims straight at acceptance; alone it learns slowly.
    """
    with torch.no_grad():
        aim = functional.log_softmax(logits_of(target, tokens[:, :-1]).float() / S.temperature, -1)
    guess = functional.log_softmax(logits_of(draft, tokens[:, :-1]).float() / S.temperature, -1)
    divergence = (aim.exp() * (aim - guess)).sum(-1).mean()
    return divergence + (aim.exp() - guess.exp()).abs().sum(-1).mean()


@torch.no_grad()
def held_out_loss(model: LlamaForCausalLM, corpus: Corpus, every: int = 1) -> float:
    """Give the loss on the held-out books (or on each so-manieth window) in nats per token."""
    model.eval()
    rows = corpus.held_out[::every].split(S.batch // S.context)
    total = sum(next_token_loss(model, batch).item() * len(batch) for batch in rows)
    model.train()
    return total / sum(map(len, rows))


def agreement_loss(
    target: LlamaForCausalLM, draft: LlamaForCausalLM, before: LlamaForCausalLM | None, tokens: Tensor
) -> Tensor:
    """Give what keeps the target as good as it is, plus what parts the two at the temperature of the default sampling.

    The draft learns as in distillation, and the target meets it: of two ways to go on that are about as good, it takes
    the one that is easier to guess. It is held by the next token of the books or, on its own text, by what it said
    `before`.
    """
    logits = logits_of(target, tokens[:, :-1]).float()
    says = functional.log_softmax(logits / S.temperature, -1)
    guess = functional.log_softmax(logits_of(draft, tokens[:, :-1]).float() / S.temperature, -1)
    if before is None:
        held = functional.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten())
    else:
        with torch.no_grad():
            aim = functional.log_softmax(logits_of(before, tokens[:, :-1]).float(), -1)
        held = (aim.exp() * (aim - functional.log_softmax(logits, -1))).sum(-1).mean()
    fixed = says.detach()
    divergence = (fixed.exp() * (fixed - guess)).sum(-1).mean()
    return held + divergence + (says.exp() - guess.exp()).abs().sum(-1).mean()


def make_optimizers(model: nn.Module, learning_rate: float) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learns in fewer tokens; AdamW for embeddings and norms."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and "embed" not in name]
    others = [p for name, p in model.named_parameters() if p.ndim != 2 or "embed" in name]
    muon = torch.optim.Muon(matrices, learning_rate, weight_decay=S.weight_decay, adjust_lr_fn="match_rms_adamw")
    adam = torch.optim.AdamW(others, learning_rate, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [muon, adam]


def rate(step: int, steps: int, plan: Plan) -> float:
    """Give the learning rate: it rises, stays, and falls to 0 in the last steps."""
    return plan.learning_rate * min(1.0, (step + 1) / plan.warmup, (steps - step) / (plan.decay * steps))


def window(step: int, steps: int) -> int:
    """Give the length of the windows of a step."""
    return S.context if step >= (1 - S.long_share) * steps else S.context // 2


def planned(folder: Path, steps: int) -> int:
    """Give the number of steps, which the file `steps` can still change while a run is in its even part."""
    file = folder / "steps"
    return int(file.read_text()) if file.exists() else steps


def fit(
    model: nn.Module,
    loss: Callable[[int, int], Tensor],
    watch: Callable[[], float],
    folder: Path,
    plan: Plan,
) -> None:
    """Train the model on loss(step, window) and keep checkpoints in the folder; go on from one that is there."""
    folder.mkdir(parents=True, exist_ok=True)
    optimizers, checkpoint = make_optimizers(model, plan.learning_rate), folder / "checkpoint.pt"
    step, began = 0, time.time()
    if checkpoint.exists():
        state = torch.load(checkpoint)
        step = state["step"]
        model.load_state_dict(state["model"])
        for optimizer, kept in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
    while step < (steps := planned(folder, plan.steps)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate(step, steps, plan)
        now = loss(step, window(step, steps))
        now.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        step += 1
        if step % 10 == 0:
            print(f"step {step} loss {now.item():.4f} seconds {time.time() - began:.0f}", flush=True)
        if step % S.save_every == 0 or step == planned(folder, plan.steps):
            save(model, optimizers, step, checkpoint)
            print(f"step {step} held-out {watch():.4f}", flush=True)


def save(model: nn.Module, optimizers: list[torch.optim.Optimizer], step: int, checkpoint: Path) -> None:
    """Write a checkpoint in one move, so that a stop in the middle loses nothing."""
    part = checkpoint.with_suffix(".part")
    state = {"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], "step": step}
    torch.save(state, part)
    part.replace(checkpoint)


def load(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    """Load the last checkpoint's weights."""
    model.load_state_dict(torch.load(folder / "checkpoint.pt")["model"])
    return model


def train_target(corpus: Corpus, run: Path) -> None:
    """Train the target on the next token."""
    model = new_model(S.layers, S.mlp)
    loss = torch.compile(next_token_loss, dynamic=False)
    watch = partial(held_out_loss, model, corpus, every=4)
    fit(model, lambda step, size: loss(model, corpus.batch(step, size)), watch, run / "target", S.target)


@torch.inference_mode()
def sample(corpus: Corpus, run: Path) -> None:
    """Let the target write texts after openings of paragraphs: the draft will have to guess such text."""
    target = load(new_model(S.layers, S.mlp), run / "target").to(torch.bfloat16 if FAST else torch.float32).eval()
    done: list[Tensor] = []
    for number in range(S.sampled_batches):
        random = torch.Generator().manual_seed(S.seed + number)
        torch.manual_seed(S.seed + number)
        starts = corpus.paragraphs[torch.randint(len(corpus.paragraphs) - 99, (S.sampled_rows,), generator=random)]
        prompts = torch.stack([corpus.begin(corpus.tokens[i : i + S.sampled_prompt]) for i in starts])
        choice = {"do_sample": True, "temperature": S.temperature, "top_p": S.top_p, "top_k": 0}
        if number < S.greedy_share * S.sampled_batches:
            choice = {"do_sample": False}
        length = S.context // 2 + 1
        choice |= {"max_length": length, "min_length": length, "use_cache": True, "pad_token_id": 0}
        done.append(target.generate(prompts, attention_mask=torch.ones_like(prompts), **choice))
        torch.save(torch.cat(done), run / "sampled.pt")
        print(f"sampled {number + 1} of {S.sampled_batches}", flush=True)


def train_draft(corpus: Corpus, run: Path, distil: bool) -> None:
    """Train the draft, which begins with the target's embeddings: distilled, or (the control) on the next token.

    The distilled one learns on the corpus and on the target's own text by turns, the control on the corpus.
    """
    target = load(new_model(S.layers, S.mlp), run / "target").eval().requires_grad_(False)
    draft = new_model(1, S.draft_mlp)
    draft.model.embed_tokens.load_state_dict(target.model.embed_tokens.state_dict())
    plain = torch.compile(next_token_loss, dynamic=False)
    watch = partial(held_out_loss, draft, corpus, every=4)
    if not distil:
        fit(draft, lambda step, size: plain(draft, corpus.batch(step, size)), watch, run / "control", S.draft)
        return
    fit(draft, distillation(draft, target, corpus, run, S.batch), watch, run / "draft", S.draft)


def distillation(
    draft: LlamaForCausalLM, target: LlamaForCausalLM, corpus: Corpus, run: Path, tokens: int
) -> Callable[[int, int], Tensor]:
    """Give the loss of a step of `tokens`: on the books and on the target's own text by turns."""
    distilled = torch.compile(distillation_loss, dynamic=False)
    own = own_text(run, tokens)
    return lambda step, size: distilled(draft, target, own(step) if step % 2 else corpus.batch(step // 2, size, tokens))


def own_text(run: Path, tokens: int) -> Callable[[int], Tensor]:
    """Give the texts by the target of a step."""
    sampled = torch.load(run / "sampled.pt")

    def rows(step: int) -> Tensor:
        random = torch.Generator().manual_seed(S.seed + step)
        return sampled[torch.randint(len(sampled), (tokens * 2 // S.context,), generator=random)]

    return rows


def train_agreement(corpus: Corpus, run: Path) -> None:
    """Train target and draft together, go back most of the way, and let the draft learn from the target as it is there.

    Weights between those before and after fine-tuning keep what both can do (Wortsman et al., 2022, arXiv:2109.01903).
    """
    folder, tokens = run / "agreed", S.agreement_batch
    target, before = (load(new_model(S.layers, S.mlp), run / "target") for _ in range(2))
    draft, draft_before = (load(new_model(1, S.draft_mlp), run / "draft") for _ in range(2))
    before.eval().requires_grad_(False)
    part, own = torch.compile(agreement_loss, dynamic=False), own_text(run, tokens)

    def loss(step: int, _: int) -> Tensor:
        books = part(target, draft, None, corpus.batch(step, S.context // 2, tokens))
        return books + part(target, draft, before, own(step))

    watch = partial(held_out_loss, target, corpus, every=4)
    fit(nn.ModuleList([target, draft]), loss, watch, folder, S.agreement)
    for model, old in ((target, before), (draft, draft_before)):
        for weight, former in zip(model.parameters(), old.parameters(), strict=True):
            weight.data = torch.lerp(former.data, weight.data, S.agreement_share)
    target.eval().requires_grad_(False)
    (folder / "target").mkdir(exist_ok=True)
    torch.save({"model": target.state_dict()}, folder / "target" / "checkpoint.pt")
    settling = distillation(draft, target, corpus, run, S.settling_batch)
    fit(draft, settling, partial(held_out_loss, draft, corpus, every=4), folder / "draft", S.settling)


def export(corpus: Corpus, run: Path, out: Path) -> None:
    """Write each trained model as a folder in bfloat16 with its tokenizer, and its held-out loss."""
    for name, layers, mlp in (("target", S.layers, S.mlp), ("draft", 1, S.draft_mlp), ("control", 1, S.draft_mlp)):
        found = [folder for folder in (run / "agreed" / name, run / name) if (folder / "checkpoint.pt").exists()]
        if not found:
            continue
        model = load(new_model(layers, mlp), found[0]).to(torch.bfloat16)
        nats = held_out_loss(model, corpus)
        figures = {
            "nats_per_token": nats,
            "perplexity": math.exp(nats),
            "bits_per_byte": nats / math.log(2) / corpus.bytes_per_token,
        }
        print(name, json.dumps(figures), flush=True)
        model.config.use_cache = True
        model.generation_config = GenerationConfig(
            do_sample=True,
            temperature=S.temperature,
            top_p=S.top_p,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
        model.save_pretrained(out / name)
        for file in (run / "tokenizer").iterdir():
            (out / name / file.name).write_bytes(file.read_bytes())


def main() -> None:
    """Read the command line and run one step of the recipe."""
    parser = argparse.ArgumentParser(description="Train the bundled story models.")
    parser.add_argument("step", choices=["tokenizer", "target", "sample", "draft", "control", "agree", "export"])
    parser.add_argument("corpus", type=Path, help="the text of the books")
    parser.add_argument("run", type=Path, help="the folder for checkpoints")
    parser.add_argument("--out", type=Path, help="where export writes the models' folders")
    arguments = parser.parse_args()
    if arguments.step == "export" and arguments.out is None:
        parser.error("export needs --out")
    if arguments.step == "tokenizer":
        train_tokenizer(read_books(arguments.corpus)[0], arguments.run)
        return
    corpus = Corpus(arguments.corpus, arguments.run)
    steps: dict[str, Callable[[], None]] = {
        "target": lambda: train_target(corpus, arguments.run),
        "sample": lambda: sample(corpus, arguments.run),
        "draft": lambda: train_draft(corpus, arguments.run, distil=True),
        "control": lambda: train_draft(corpus, arguments.run, distil=False),
        "agree": lambda: train_agreement(corpus, arguments.run),
        "export": lambda: export(corpus, arguments.run, arguments.out),
    }
    steps[arguments.step]()


if __name__ == "__main__":
    main()
