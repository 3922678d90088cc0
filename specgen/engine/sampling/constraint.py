"""Which tokens a constraint allows next: a function of the context, kept up to date along it.

The parser is llguidance's: it reads the tokens of a context, and takes them back where another context has others.
"""

import torch
from llguidance import LLMatcher, LLTokenizer

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import SpecgenError, UnsupportedModel, UsageError
from specgen.core.tokens import Tokens


class Vocabulary:
    """The tokens of one model as bytes; `end_ids` end an answer. Building one takes a second for 150,000 tokens."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        """Raises UnsupportedModel for a tokenizer that llguidance cannot read, UsageError without an end token."""
        if not end_ids:
            raise UsageError("this model has no end token, so its answers cannot be constrained")
        self.end_ids = end_ids
        try:
            self._tokens = LLTokenizer(tokenizer.to_json(), eos_token=sorted(end_ids))
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModel(
                f"the tokenizer of this model cannot be constrained: {str(error).partition(chr(10))[0]}",
                hint="leave the constraint out, or choose another model",
            ) from error

    def follow(self, grammar: str, prompt_length: int) -> "Follower":
        """The constraint of `grammar`, from compile_grammar, on what follows `prompt_length` tokens."""
        return Follower(LLMatcher(self._tokens, grammar, log_level=0), prompt_length, self.end_ids)

    def accepts(self, grammar: str, text: str) -> bool:
        """Whether `text` is a whole text of `grammar`."""
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        ids = self._tokens.tokenize_str(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


class Follower:
    """What may follow any context of one run. Contexts may branch and roll back: each costs where it differs."""

    def __init__(self, matcher: LLMatcher, prompt_length: int, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._prompt_length = prompt_length
        self._end_ids = end_ids
        self._at = Tokens()
        self._allowed: torch.Tensor | None = None

    def mask(self, row: torch.Tensor, context: Tokens) -> torch.Tensor:
        """`row`, float32 [ids], the scores after `context`, with -inf for every token that may not follow.

        The end tokens may follow where the grammar accepts. A row of a context that broke the constraint already, or
        of a draft that knows none of the tokens allowed, is returned as it is: nothing drawn from it is accepted.
        """
        if self._go(context) < len(context):
            return row
        if self._allowed is None:
            self._allowed = self._compute()
        allowed = self._allowed[: row.numel()].to(row.device)
        if allowed.numel() < row.numel():
            allowed = torch.nn.functional.pad(allowed, (0, row.numel() - allowed.numel()))
        return torch.where(allowed, row, -torch.inf) if allowed.any() else row

    def forced(self, context: Tokens) -> tuple[int, ...]:
        """The tokens that must follow `context`, up to where a choice is left; none is an end token."""
        if self._go(context) < len(context):
            return ()
        return tuple(self._matcher.compute_ff_tokens())

    def reach(self, context: Tokens) -> int:
        """How many tokens of `context` keep to the constraint; those of the prompt always do."""
        return self._go(context)

    def _compute(self) -> torch.Tensor:
        """bool [known ids] of what may follow where the matcher stands."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        self._check()
        allowed[[token for token in self._end_ids if token < allowed.numel()]] = self._matcher.is_accepting()
        if not allowed.any():
            raise UsageError("no token of this model goes on as the constraint demands", hint="relax the constraint")
        return allowed

    def _go(self, context: Tokens) -> int:
        """Bring the matcher to `context`, or as far as it can follow; returns how far."""
        shared = context.common_prefix(self._at)
        if shared < len(self._at):
            self._matcher.rollback(len(self._at) - max(shared, self._prompt_length))
            self._allowed = None
        start = max(shared, self._prompt_length)
        new = context.ids(start)
        end = next((i for i, token in enumerate(new) if token in self._end_ids), len(new))
        consumed = self._matcher.try_consume_tokens(new[:end]) if end else 0
        self._check()
        if consumed:
            self._allowed = None
        self._at = context.prefix(start + consumed)
        return len(self._at)

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = self._matcher.get_error().partition("\n")[0]
            raise SpecgenError(f"the constraint cannot be followed: {reason}", hint="make it simpler")
