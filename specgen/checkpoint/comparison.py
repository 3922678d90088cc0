"""Compare two commits of a model by their small files."""

from collections.abc import Iterator
from dataclasses import dataclass

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.summary import ModelSummary, summarize
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import SpecgenError
from specgen.hub.files import is_non_commercial, is_small, is_tokenizer
from specgen.hub.snapshot import Snapshot

_COMPARED = ("architecture", "layers", "hidden_size", "vocabulary", "context_length", "licence")
_NAMES = {"hidden_size": "hidden size", "context_length": "context length"}


@dataclass(frozen=True, slots=True)
class ModelChange:
    """One difference between two commits. `risky` ones deserve the user's attention."""

    what: str
    before: str
    after: str
    risky: bool = False


def compare(old: Checkpoint, new: Checkpoint) -> list[ModelChange]:
    """The changes from `old` to `new`. Both need their small files, not their weights. Raises BadFile."""
    return [
        *_summaries(summarize(old), summarize(new)),
        *_weights(old, new),
        *_tokenizers(old, new),
        *_other_files(old, new),
    ]


def _summaries(old: ModelSummary, new: ModelSummary) -> Iterator[ModelChange]:
    for name in _COMPARED:
        before, after = getattr(old, name), getattr(new, name)
        both_known = before is not None and after is not None  # one of them may lack its weights
        if before != after and (both_known or name == "licence"):
            what = _NAMES.get(name, name)
            nc = " (not for commercial use)" if name == "licence" and is_non_commercial(after) else ""
            yield ModelChange(what, _format(before), _format(after) + nc, risky=name in ("licence", "architecture"))


def _weights(old: Checkpoint, new: Checkpoint) -> Iterator[ModelChange]:
    before, after = old.weight_bytes, new.weight_bytes
    if before != after:
        yield ModelChange("weights", f"{before:,} bytes", f"{after:,} bytes")
    elif _weight_hashes(old) != _weight_hashes(new):
        yield ModelChange("weights", f"{before:,} bytes", "other weights of the same size")


def _weight_hashes(checkpoint: Checkpoint) -> dict[str, str | None]:
    snapshot = Snapshot(checkpoint.ref, checkpoint.commit or "")
    listed = snapshot.hashes()
    return {name: listed.get(name) for name in snapshot.weights()}


def _tokenizers(old: Checkpoint, new: Checkpoint) -> Iterator[ModelChange]:
    """The change of the tokenizer, with the lowest id that differs if both vocabularies can be read."""
    if not old.is_gguf and all(_same_file(old, new, name) for name in _small_names(old, new) if is_tokenizer(name)):
        return
    try:
        ours, theirs = _tokenizer(old), _tokenizer(new)
    except SpecgenError:
        ours = theirs = None
    if old.is_gguf and ours and theirs:
        if ours.chat_template != theirs.chat_template:
            yield ModelChange("chat template", "its text", "another text")
        if ours.to_json() == theirs.to_json():
            return
    if ours is None or theirs is None:
        yield ModelChange("tokenizer", "its files", "other files", risky=True)
        return
    before, after = ours.vocabulary(), theirs.vocabulary()
    differing = min((index for token, index in before.items() ^ after.items()), default=None)
    if differing is None:
        yield ModelChange("tokenizer", f"{len(before):,} tokens", "the same tokens, split by other rules", risky=True)
        return
    tokens = [next((token for token, index in each.items() if index == differing), None) for each in (before, after)]
    shown = [
        f"{len(each):,} tokens, id {differing} {token!r}" for each, token in zip((before, after), tokens, strict=True)
    ]
    yield ModelChange("tokenizer", shown[0], shown[1], risky=True)


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer | None:
    if not checkpoint.is_gguf:
        return Tokenizer.from_folder(checkpoint.path)
    from specgen.checkpoint.gguf.tokenizer import read_tokenizer  # noqa: PLC0415  0.1 s, only for GGUF

    return read_tokenizer(checkpoint.header)


def _other_files(old: Checkpoint, new: Checkpoint) -> Iterator[ModelChange]:
    for name in _small_names(old, new):
        if not is_tokenizer(name) and not _same_file(old, new, name):
            states = ["none" if not (each.path / name).is_file() else "its text" for each in (old, new)]
            yield ModelChange(name, states[0], "another text" if states == ["its text"] * 2 else states[1])


def _small_names(old: Checkpoint, new: Checkpoint) -> list[str]:
    if old.is_gguf:
        return []
    return sorted({path.name for each in (old, new) for path in each.path.iterdir() if is_small(path.name)})


def _same_file(old: Checkpoint, new: Checkpoint, name: str) -> bool:
    files = [each.path / name for each in (old, new)]
    if not all(file.is_file() for file in files):
        return not any(file.is_file() for file in files)
    return files[0].read_bytes() == files[1].read_bytes()


def _format(value: object) -> str:
    return "unknown" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
