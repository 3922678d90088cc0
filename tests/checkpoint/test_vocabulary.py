import pytest
from tokenizers import Tokenizer as Backend
from tokenizers import models

from specgen.checkpoint.tokenizer import Tokenizer
from specgen.checkpoint.vocabulary import shared_range
from specgen.core.errors import DraftMismatch

WORDS = [f"w{index}" for index in range(20)]
TARGET = [*WORDS, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]


def tokenizer(tokens: list[str] | dict[str, int]) -> Tokenizer:
    ids = tokens if isinstance(tokens, dict) else {token: index for index, token in enumerate(tokens)}
    return Tokenizer(Backend(models.WordLevel(ids, unk_token=next(iter(ids)))))


def special(*names: str) -> Tokenizer:
    """The words, and special tokens after them."""
    backend = Backend(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token=WORDS[0]))
    backend.add_special_tokens(list(names))
    return Tokenizer(backend)


def message(target: list[str], draft: list[str] | dict[str, int]) -> str:
    with pytest.raises(DraftMismatch) as caught:
        shared_range(tokenizer(target), tokenizer(draft))
    assert "--draft lookup" in caught.value.hint
    return caught.value.message


def test_the_same_tokens_fit() -> None:
    assert shared_range(tokenizer(TARGET), tokenizer(TARGET)) == len(TARGET)


def test_padding_of_either_is_not_shared() -> None:
    padded = [*TARGET, "[PAD23]", "[PAD24]"]
    assert shared_range(tokenizer(padded), tokenizer(TARGET)) == len(TARGET)
    assert shared_range(tokenizer(TARGET), tokenizer(padded)) == len(TARGET)


def test_a_draft_may_lack_tokens_at_the_end() -> None:
    assert shared_range(tokenizer(TARGET), tokenizer(TARGET[:-2])) == len(TARGET) - 2


def test_a_gap_in_either_is_no_difference() -> None:
    without = {token: index for index, token in enumerate(TARGET) if index != 7}
    assert shared_range(tokenizer(TARGET), tokenizer(without)) == len(TARGET)
    assert shared_range(tokenizer(without), tokenizer(TARGET)) == len(TARGET)


def test_a_foreign_tokenizer_is_refused_by_its_first_ids() -> None:
    foreign = message(TARGET, ["<unk>", 'a"b\n', *(f"v{index}" for index in range(18))])
    assert 'id 0: target "w0", draft "<unk>"; id 1: target "w1", draft "a\\"b\\n"; id 2:' in foreign
    assert foreign.endswith("and 17 more")
    assert "\n" not in foreign


def test_a_special_token_that_moved_within_the_range_is_refused() -> None:
    moved = [*WORDS, "<|im_end|>", "<|im_start|>", "<|endoftext|>"]
    assert message(TARGET, moved).endswith(
        'id 20: target "<|endoftext|>", draft "<|im_end|>"; id 22: target "<|im_end|>", draft "<|endoftext|>"'
    )


def test_a_special_token_that_moved_past_the_range_is_refused() -> None:
    moved = {token: index for index, token in enumerate(TARGET[:-1])} | {"<|im_end|>": 30}
    assert message(TARGET, moved).endswith('id 22: target "<|im_end|>", draft has it at 30; '
                                           'id 30: target has it at 22, draft "<|im_end|>"')  # fmt: skip


def test_a_small_overlap_is_refused() -> None:
    assert "it has only 10 of 23" in message(TARGET, WORDS[:10])


def test_a_draft_without_tokens_in_common_is_refused() -> None:
    beyond = {f"v{index}": 100 + index for index in range(20)}
    assert "it has only 0 of 23" in message(TARGET, beyond)


def test_a_reserved_token_may_have_got_a_name() -> None:
    older = special("<|end|>", "<|reserved_special_token_1|>", "<|reserved_special_token_2|>")
    newer = special("<|end|>", "<|eom|>", "<|reserved_special_token_1|>")
    assert shared_range(newer, older) == shared_range(older, newer) == len(WORDS) + 3
    assert shared_range(special("<end>", "<unused3>"), special("<end>", "<tool>")) == len(WORDS) + 2


def test_a_special_token_that_is_used_must_not_have_another_name() -> None:
    with pytest.raises(DraftMismatch, match="id 21: target"):
        shared_range(special("<end>", "<tool>"), special("<end>", "<think>"))


def test_a_token_of_text_in_the_place_of_a_reserved_one_is_refused() -> None:
    with pytest.raises(DraftMismatch, match="id 20: target"):
        shared_range(special("<|reserved_special_token_1|>"), tokenizer([*WORDS, "extra"]))
    with pytest.raises(DraftMismatch, match="id 20: target"):
        shared_range(tokenizer([*WORDS, "reserved"]), tokenizer([*WORDS, "other"]))
