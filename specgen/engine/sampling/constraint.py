"""The tokens that a constraint allows after a context.

llguidance parses the tokens of a context, and rolls them back when the next context differs.
"""

import torch
from llguidance import LLMatcher, LLTokenizer

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.core.errors import UnsupportedModel, UsageError
from specgen.core.tokens import Tokens
from specgen.engine.sampling.grammar import after_thinking
from specgen.engine.text.thinking import Tags


class Vocabulary:
    """The tokens of one model as bytes. `end_ids` end an answer. Construction takes 1 s for 150,000 tokens."""

    def __init__(self, tokenizer: Tokenizer, end_ids: frozenset[int]) -> None:
        """Raises UnsupportedModel if llguidance cannot read the tokenizer, UsageError without an end token."""
        if not end_ids:
            raise UsageError("this model has no end token, so its answers cannot be constrained")
        self.end_ids = end_ids
        self._token_id = tokenizer.token_id
        try:
            self._tokens = LLTokenizer(tokenizer.to_json(), eos_token=sorted(end_ids))
        except (ValueError, RuntimeError) as error:
            raise UnsupportedModel(
                f"the tokenizer of this model cannot be constrained: {str(error).partition(chr(10))[0]}",
                hint="leave the constraint out, or choose another model",
            ) from error

    def follow(self, grammar: str, prompt_length: int, thinking: Tags | None = None) -> "Follower":
        """The constraint of `grammar`, from compile_grammar, on the text after `prompt_length` tokens.

        With `thinking` the model may think first, and the constraint starts after the closing tag. If the prompt has
        opened the thinking, the model must close it.
        """
        if thinking is not None and not thinking.off:
            opening = None if thinking.opened else self._tag(thinking.open)
            grammar = after_thinking(grammar, opening, self._tag(thinking.close))
        return Follower(LLMatcher(self._tokens, grammar, log_level=0), prompt_length, self.end_ids)

    def _tag(self, text: str) -> tuple[str, int | None]:
        """A tag and its id, None if it is no special token of llguidance."""
        token = self._token_id(text)
        return text, token if token is not None and self._tokens.is_special_token(token) else None

    def accepts(self, grammar: str, text: str) -> bool:
        """Whether `grammar`, from compile_grammar, accepts all of `text`."""
        matcher = LLMatcher(self._tokens, grammar, log_level=0)
        ids = self._tokens.tokenize_str(text)
        return matcher.try_consume_tokens(ids) == len(ids) and matcher.is_accepting()


class Follower:
    """The tokens allowed after any context of one run. A context costs the tokens in which it differs from the last."""

    def __init__(self, matcher: LLMatcher, prompt_length: int, end_ids: frozenset[int]) -> None:
        self._matcher = matcher
        self._prompt_length = prompt_length
        self._end_ids = end_ids
        self._at = Tokens()
        self._allowed: torch.Tensor | None = None

    def mask(self, row: torch.Tensor, context: Tokens) -> torch.Tensor:
        """`row`, float32 [ids], the scores after `context`, with -inf for every forbidden token.

        End tokens are allowed if the grammar accepts the text. The row is returned unchanged if `context` breaks the
        constraint, or if a draft knows none of the allowed tokens: no token picked from it is accepted.
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
        """The tokens that must follow `context`, up to the first choice. End tokens are excluded."""
        if self._go(context) < len(context):
            return ()
        return tuple(self._matcher.compute_ff_tokens())

    def reach(self, context: Tokens) -> int:
        """Number of leading tokens of `context` that satisfy the constraint. The prompt always does."""
        return self._go(context)

    def _compute(self) -> torch.Tensor:
        """bool [ids that llguidance knows]: the tokens allowed at the position of the matcher."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        self._check()
        allowed[[token for token in self._end_ids if token < allowed.numel()]] = self._matcher.is_accepting()
        if not allowed.any():
            raise UsageError(
                "this model has no token that continues the text as the constraint demands", hint="relax the constraint"
            )
        return allowed

    def _go(self, context: Tokens) -> int:
        """Move the matcher to `context`, as far as the constraint allows. Returns the number of tokens reached."""
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
            raise UsageError(f"the constraint cannot be followed: {reason}", hint="make it simpler")
