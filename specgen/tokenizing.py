"""The tokenizer of a checkpoint, whatever its format."""

from specgen.checkpoint.checkpoint import Checkpoint
from specgen.checkpoint.tokenizer import Tokenizer
from specgen.checkpoint.vocabulary import shared_range
from specgen.core.types import EngineOptions


def compare(target: Checkpoint, draft: Checkpoint | None, options: EngineOptions) -> tuple[Tokenizer, int]:
    """The target's tokenizer, and how many leading ids mean the same to the draft. Raises DraftMismatch."""
    tokenizer = read_tokenizer(target, options)
    return tokenizer, shared_range(tokenizer, read_tokenizer(draft, options)) if draft else 0


def read_tokenizer(checkpoint: Checkpoint, options: EngineOptions) -> Tokenizer:
    """Needs only the small files of a model, or the header of its .gguf file. Raises BadFile, UnsupportedModel."""
    if checkpoint.is_gguf:
        from specgen.checkpoint.gguf.tokenizer import read_tokenizer as read_gguf  # noqa: PLC0415  0.1 s, only for GGUF

        tokenizer = read_gguf(checkpoint.header)
    else:
        tokenizer = Tokenizer.from_folder(checkpoint.path)
    if tokenizer is not None:
        return tokenizer
    from specgen.nn.transformers.model import convert_tokenizer  # noqa: PLC0415 - seconds that few models need

    return convert_tokenizer(checkpoint, trust_remote_code=options.trust_remote_code)
