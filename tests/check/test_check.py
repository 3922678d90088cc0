"""Texts with and without speculation, compared over fake models with known answers."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from specgen.bench.suites import SuitePrompt
from specgen.check.check import CheckResult, CheckSettings, CheckStarted, check, check_pair
from specgen.check.difference import GeneratedText, compare
from specgen.check.report import difference_line, real_differences, report_data, summary
from specgen.core.errors import UnsupportedModel, UsageError
from specgen.core.events import Stats
from specgen.core.tokens import Tokens
from specgen.core.types import EngineOptions, SamplingParams
from specgen.engine.drafters.interface import Proposal
from specgen.engine.sampling.noise import gumbel
from specgen.engine.verify import Verdict
from specgen.session.pair import Pair
from tests.fakes import VOCAB, TableModel, fake_session, rounds, tokens_of

PROMPT = SuitePrompt("7", "code", "the quick brown fox")
NEW = 20
GREEDY = SamplingParams()
SAMPLED = SamplingParams(temperature=1.0, seed=5)


class Leaky(TableModel):
    """A target with different scores in wide passes, so that speculation breaks its text."""

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        rows = super().forward(tokens, last)
        return rows.roll(1, -1) if last > 1 else rows


class Stale(TableModel):
    """A target that does not roll back rejected tokens: its scores are wrong after the first one."""

    def __init__(self) -> None:
        super().__init__(VOCAB, seed=1)
        self._last = Tokens()
        self._spoilt = False

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        if len(tokens) == 1:
            self._spoilt = False  # a new text
        elif len(self._last) > 1:
            self._spoilt = self._spoilt or tokens.common_prefix(self._last) < len(self._last)
        self._last = tokens
        logits = super().forward(tokens, last)
        return logits.roll(1, -1) if self._spoilt else logits


class Wobbly(TableModel):
    """A target whose two best tokens score alike after `at` tokens; a wide pass adds `shift` to the second."""

    def __init__(self, at: int, shift: float, margin: float = 1e-6) -> None:
        super().__init__(VOCAB, seed=1)
        self._at = at
        self._shift = shift
        self._margin = margin

    def row(self, ids: Sequence[int]) -> torch.Tensor:
        row = super().row(ids).clone()
        if len(ids) == self._at:
            first, second = torch.topk(row, 2).indices
            row[second] = row[first] - self._margin
        return row

    def forward(self, tokens: Tokens, last: int) -> torch.Tensor:
        rows = super().forward(tokens, last)
        row = self._at - (len(tokens) - last + 1)
        if last > 1 and 0 <= row < last:
            rows[row, torch.topk(rows[row], 2).indices[1]] += self._shift
        return rows


def pair(folder: Path, target: Any, draft: Any = None) -> Pair:
    draft = draft or TableModel(VOCAB, seed=1)
    for model in (target, draft):
        model.context_length = 4096
    opened = fake_session(target, folder=folder, chat_template=None).pair
    return dataclasses.replace(opened, draft=draft, drafter_name="model", shared_vocab=VOCAB)


def settings(**values: Any) -> CheckSettings:
    known: dict[str, Any] = {"max_new_tokens": NEW, "samplings": (GREEDY,)}
    return CheckSettings("fake", engine=EngineOptions(num_draft_tokens=3), **known | values)


def checks(over: Pair, *prompts: SuitePrompt, **values: Any) -> tuple[CheckStarted, list[CheckResult]]:
    events = list(check_pair(over, prompts or (PROMPT,), settings(**values)))
    (opened,) = (event for event in events if isinstance(event, CheckStarted))
    return opened, [event for event in events if isinstance(event, CheckResult)]


def prompt_length(over: Pair) -> int:
    return len(over.tokenizer.encode(PROMPT.text, special=True))


def plain_text(over: Pair) -> list[int]:
    ids = over.tokenizer.encode(PROMPT.text, special=True)
    return tokens_of(rounds(over.target, ids, new=NEW, end_ids=[0]))


def test_the_same_texts_are_identical(tmp_path: Path) -> None:
    both = pair(tmp_path, TableModel(VOCAB, seed=1), TableModel(VOCAB, seed=1, noise=0.3))
    opened, checked = checks(both, samplings=(GREEDY, SAMPLED), drafters=("model", "lookup"))
    assert opened.runs == len(checked) == 4
    assert [each.difference for each in checked] == [None] * 4
    assert (real_differences(checked), summary(checked, opened).splitlines()[0]) == (
        0,
        "1 prompt x 2 samplings x 2 drafters: identical",
    )
    assert "acceptance rate" in summary(checked, opened)


@pytest.mark.parametrize("sampling", [GREEDY, SAMPLED], ids=["greedy", "sampled"])
def test_a_target_that_scores_otherwise_where_it_verifies_is_a_difference(
    tmp_path: Path, sampling: SamplingParams
) -> None:
    opened, (checked,) = checks(pair(tmp_path, Leaky(VOCAB, seed=1)), samplings=(sampling,))
    assert checked.difference is not None
    assert not checked.difference.tie
    assert real_differences([checked]) == 1
    assert summary([checked], opened).startswith("1 prompt x 1 sampling: 1 difference, 0 identical\n")
    assert difference_line(checked).startswith("DIFFERENT: prompt 7 (code), ")


def test_scores_that_move_by_more_than_rounding_are_no_tie_however_alike(tmp_path: Path) -> None:
    at = prompt_length(pair(tmp_path, TableModel(VOCAB))) + 3
    _, (checked,) = checks(pair(tmp_path, Wobbly(at, shift=1e-3)))
    assert checked.difference is not None
    assert (checked.difference.position, checked.difference.tie) == (3, False)


def test_every_run_is_judged_by_the_scores_that_it_saw(tmp_path: Path) -> None:
    """The scores come from a cache, whose state depends on earlier passes."""
    _, (checked,) = checks(pair(tmp_path, Stale(), TableModel(VOCAB, seed=2)))
    found = checked.difference
    assert found is not None
    assert (found.position, found.tie) == (1, False)
    assert (found.noise or 0.0) > 0.1


@pytest.mark.parametrize("draft", [1, 2], ids=["a draft that is right", "a draft that is wrong"])
def test_a_tie_of_floating_point_is_told_from_a_bug(tmp_path: Path, draft: int) -> None:
    at = prompt_length(pair(tmp_path, TableModel(VOCAB))) + 3
    both = pair(tmp_path, target := Wobbly(at, shift=3e-6), TableModel(VOCAB, seed=draft))
    opened, (checked,) = checks(both)
    found = checked.difference
    assert found is not None
    assert found.tie
    assert found.position == 3
    plain = plain_text(both)
    assert found.plain == plain[3]
    row = target.row([*both.tokenizer.encode(PROMPT.text, special=True), *plain[:3]])
    assert found.drafted == int(torch.topk(row, 2).indices[1])
    assert found.margin == pytest.approx(1e-6, abs=3e-7)
    assert found.noise == pytest.approx(3e-6, abs=5e-7)
    assert found.width == 4
    assert (real_differences([checked]), summary([checked], opened).splitlines()[0]) == (
        0,
        "1 prompt x 1 sampling: 1 tie of floating point, 0 identical",
    )
    assert difference_line(checked).startswith("tie: prompt 7 (code), greedy, model, token 4: ")


def test_a_sampled_tie_is_one_with_its_noise(tmp_path: Path) -> None:
    """The margin of the logits may be wide: the margin with noise counts."""
    alone = TableModel(VOCAB, seed=1)
    both = pair(tmp_path, alone)
    prompt = both.tokenizer.encode(PROMPT.text, special=True)
    text = tokens_of(rounds(alone, prompt, SAMPLED, new=NEW))
    # After two tokens the best two of the drawn scores are made to differ by 1e-6.
    noise = gumbel(SAMPLED.seed, len(prompt) + 2, torch.arange(VOCAB))
    before = text[1]
    scores = alone.table[before] + noise
    first, second = torch.topk(scores, 2).indices.tolist()
    for model in (alone, both.draft):
        model.table[before, second] += float(scores[first] - scores[second]) - 1e-6  # type: ignore[union-attr]
    straight = alone.forward

    def shifted(tokens: Tokens, last: int) -> torch.Tensor:
        rows = straight(tokens, last)
        if last > 1:
            rows[:, second] += 4e-6
        return rows

    alone.forward = shifted  # type: ignore[method-assign]
    _, (checked,) = checks(both, samplings=(SAMPLED,))
    found = checked.difference
    assert found is not None
    assert (found.plain, found.drafted, found.tie) == (first, second, True)
    assert found.drawn == pytest.approx(1e-6, abs=1e-6)
    assert abs(found.margin or 0.0) > 0.01
    assert "with the seed's noise" in difference_line(checked)


def test_a_loop_that_accepts_too_much_is_a_difference_though_the_scores_agree(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def credulous(proposal: Proposal, picks: Sequence[int]) -> Verdict:
        return Verdict(
            proposal,
            len(proposal.tokens),
            (*proposal.tokens, picks[-1]),
            (*proposal.sources, "bonus"),
        )

    monkeypatch.setattr("specgen.engine.decode.verify", credulous)
    both = pair(tmp_path, TableModel(VOCAB, seed=1), wrong := TableModel(VOCAB, seed=2))
    _, (checked,) = checks(both)
    found = checked.difference
    assert found is not None
    assert (found.tie, found.noise, found.position) == (False, 0.0, 0)
    prompt = both.tokenizer.encode(PROMPT.text, special=True)
    assert found.plain == plain_text(both)[0]
    assert found.drafted == int(wrong.row(prompt).argmax())
    # The second is half a character, and goes by its name in the vocabulary.
    assert '"`" (65) without, "º" (120) with speculation; margin ' in difference_line(checked)


def test_a_text_that_ends_too_early_is_a_difference() -> None:
    model = TableModel(VOCAB)
    found = compare(model, [5], GeneratedText((1, 2, 3), ()), GeneratedText((1, 2), ()), GREEDY, torch.float32)
    assert found is not None
    assert (found.position, found.plain, found.drafted, found.tie) == (2, 3, None, False)
    made = CheckResult(PROMPT, GREEDY, "model", found, ("x", ""), Stats())
    assert difference_line(made).endswith('"x" (3) without, the end with speculation')


def test_texts_without_a_drafted_token_prove_nothing_and_it_is_said(tmp_path: Path) -> None:
    opened, checked = checks(pair(tmp_path, TableModel(VOCAB, seed=1)), max_new_tokens=1)
    assert summary(checked, opened).startswith("NOT CHECKED: 1 prompt x 1 sampling: nothing was drafted in 1 token")


def test_a_check_that_was_cut_short_says_so(tmp_path: Path) -> None:
    others = [SuitePrompt(str(number), "code", PROMPT.text) for number in range(3)]
    opened, checked = checks(pair(tmp_path, TableModel(VOCAB, seed=1)), *others)
    assert summary(checked[:2], opened).startswith("interrupted after 2 of 3 checks: identical")
    assert report_data(settings(), opened, checked[:2], whole=False)["complete"] is False


def test_prompts_are_cut_to_their_last_tokens(tmp_path: Path) -> None:
    both = pair(tmp_path, TableModel(VOCAB, seed=1))
    for last, read in ((3, 3), (None, prompt_length(both)), (10_000, prompt_length(both))):
        _, (checked,) = checks(both, last=last)
        assert checked.stats.prompt_tokens == read


def test_what_cannot_be_checked_is_refused(tmp_path: Path) -> None:
    both = pair(tmp_path, TableModel(VOCAB, seed=1))
    with pytest.raises(UsageError, match="no drafter 'hybrid'; there is: lookup, history"):
        checks(dataclasses.replace(both, draft=None), drafters=("hybrid",))
    with pytest.raises(UsageError, match="this pair drafts nothing"):
        checks(dataclasses.replace(both, drafter_name="none"))
    with pytest.raises(UsageError, match="leaves no room"):
        checks(both, max_new_tokens=4096)
    with pytest.raises(UsageError, match="no drafter 'magic' to check"):
        next(check(settings(drafters=("magic",))))
    with pytest.raises(UsageError, match="a prompt is empty"):
        next(check(settings(texts=(" ",))))


def test_a_target_that_computes_nan_passes_no_check(tmp_path: Path) -> None:
    target = TableModel(VOCAB, seed=1)
    target.table[:, 5] = torch.nan
    with pytest.raises(UnsupportedModel, match=r"the target model .* computes no usable scores"):
        checks(pair(tmp_path, target, TableModel(VOCAB, seed=1)))
