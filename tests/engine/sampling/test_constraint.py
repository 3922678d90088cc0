"""A constrained answer parses and is the same with any draft; forced tokens are proposed at once."""

import itertools
import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from specgen.core.errors import UsageError
from specgen.core.events import Failed, Finished, Source
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, SamplingChoice, SamplingParams
from specgen.engine import decode as decode_module
from specgen.engine.decode import Limits, Round, decode
from specgen.engine.drafters.forced import ForcedDrafter
from specgen.engine.drafters.hybrid import HybridDrafter
from specgen.engine.drafters.interface import Drafter, NoDrafter, Proposal
from specgen.engine.drafters.lookup import LookupDrafter
from specgen.engine.drafters.model import ModelDrafter
from specgen.engine.pacing.controller import Controller, FixedController, make_controller
from specgen.engine.sampling.constraint import Follower, Vocabulary
from specgen.engine.sampling.grammar import compile_grammar
from specgen.engine.sampling.sampler import Sampler
from specgen.engine.verify import Verdict
from tests.engine.sampling.test_sampler import chi_square_p, distribution
from tests.fakes import VOCAB, Scripted, Speaker, TableModel, encode, fake_session, steps, tokenizer, tokens_of

END, START = 0, 1
ENDS = frozenset({END})
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 6},
        "kind": {"enum": ["cat", "dog"]},
        "tags": {"type": "array", "items": {"type": "integer", "minimum": 0, "maximum": 99}, "maxItems": 2},
    },
    "required": ["name", "kind", "tags"],
    "additionalProperties": False,
}
OBJECT = Constraint("json-schema", json.dumps(SCHEMA))
WORDS = Constraint("grammar", 'root ::= "the " ("lazy " | "quick ")+ "dog" "."?')
PROMPT = encode("the fox")
VOCABULARY = Vocabulary(tokenizer(), ENDS)
TARGET = TableModel(VOCAB, seed=3, spread=3.0)
SIMILAR = TableModel(VOCAB, seed=3, spread=3.0, noise=1.0)


grammar_of = cache(compile_grammar)


def follow(constraint: Constraint) -> Follower:
    return VOCABULARY.follow(grammar_of(constraint), len(PROMPT))


def allowed(follower: Follower, context: Tokens) -> list[int]:
    row = follower.mask(torch.zeros(VOCAB), context)
    return torch.nonzero(row == 0).flatten().tolist()


def constrained(
    constraint: Constraint,
    params: SamplingParams,
    drafter: Drafter | None = None,
    *,
    k: int | None = 4,
    new: int = 120,
    target: Any = TARGET,
) -> list[Round]:
    """The rounds of an answer. Without a drafter nothing is drafted, forced tokens included."""
    follower = follow(constraint)
    limits = Limits(len(PROMPT) + new, "length", ENDS)
    controller: Controller = FixedController(0) if drafter is None else make_controller(k)
    helped = ForcedDrafter(drafter, follower, limits.length) if drafter else NoDrafter()
    sampler = Sampler(params, len(PROMPT), follower)
    return list(decode(target, helped, Tokens(PROMPT), sampler, limits, controller))


def text_of(done: Sequence[Round]) -> str:
    return tokenizer().decode(tokens_of(done))


def by_model() -> ModelDrafter:
    return ModelDrafter(SIMILAR, VOCAB, 1000)


DRAFTERS = {
    "nothing but what is forced": NoDrafter,
    "lookup": LookupDrafter,
    "model": by_model,
    "a model that knows half the tokens": lambda: ModelDrafter(SIMILAR, VOCAB // 2, 1000),
    "hybrid": lambda: HybridDrafter(LookupDrafter(), by_model()),
    "nonsense": lambda: Scripted(lambda ids: [START, END, 7]),
}
SAMPLINGS = [
    SamplingParams(),
    SamplingParams(temperature=1.0, seed=1),
    SamplingParams(temperature=0.7, top_k=20, top_p=0.9, min_p=0.05, seed=2),
    SamplingParams(repetition_penalty=1.4, presence_penalty=0.5, frequency_penalty=0.5),
    SamplingParams(temperature=1.5, top_p=0.5, repetition_penalty=1.2, seed=3),
]


@pytest.mark.parametrize("constraint", [OBJECT, WORDS], ids=["schema", "grammar"])
@pytest.mark.parametrize("params", SAMPLINGS, ids=str)
def test_a_constrained_text_is_the_plain_one_with_any_drafter(constraint: Constraint, params: SamplingParams) -> None:
    plain = constrained(constraint, params)
    assert all(each.drafted == 0 for each in plain)
    assert plain[-1].finish == "end"
    assert VOCABULARY.accepts(compile_grammar(constraint), text_of(plain))
    for (name, drafter), k in itertools.product(DRAFTERS.items(), (0, 1, 4, None)):
        done = constrained(constraint, params, drafter(), k=k)
        assert tokens_of(done) == tokens_of(plain), (name, k)
        assert done[-1].finish == "end"
        assert all(each.accepted <= each.drafted and len(each.tokens) <= each.accepted + 1 for each in done)
        assert len(done) < len(plain), (name, k)


def test_an_answer_follows_the_schema() -> None:
    for seed in range(8):
        done = constrained(OBJECT, SamplingParams(temperature=2.0, seed=seed), by_model())
        value = json.loads(text_of(done))
        assert list(value) == ["name", "kind", "tags"]
        assert value["kind"] in ("cat", "dog")
        assert all(0 <= each <= 99 for each in value["tags"])


def test_a_forced_run_is_proposed_at_once_and_always_accepted() -> None:
    done = constrained(OBJECT, SamplingParams(), NoDrafter(), k=1)
    first = done[0]
    assert tokenizer().decode(first.drafted_tokens) == '{"name": "'
    assert first.drafted > 4
    assert all(each.accepted == each.drafted for each in done)
    assert {source for each in done for source in each.drafted_sources} == {"forced"}
    assert len(tokens_of(done)) / len(done) > 2.5


def test_forced_tokens_surround_the_guess_of_another_drafter() -> None:
    answer = encode('{"name": "a", "kind": "cat", "tags": []}')
    asked: list[int] = []

    def script(ids: list[int]) -> list[int]:
        asked.append(len(ids) - len(PROMPT))
        return answer[len(ids) - len(PROMPT) :]

    target = Speaker([*answer, END], len(PROMPT))
    done = constrained(OBJECT, SamplingParams(), Scripted(script), k=3, target=target)
    assert tokens_of(done) == [*answer, END]
    first = "".join(source[0] for source in done[0].drafted_sources)
    assert re.fullmatch("f{5,}d{3}f*", first)
    assert asked[0] == first.index("d")
    assert all(each.accepted == each.drafted for each in done)


def test_a_drafter_is_judged_by_its_own_tokens() -> None:
    sources: tuple[Source, ...] = ("forced", "forced", "draft", "draft", "forced")
    proposal = Proposal((1, 2, 3, 4, 5), sources, confidences=(0.9, 0.8))
    for accepted, kept, tokens in [(5, 2, (3, 4, 5)), (4, 2, (3, 4, 9)), (3, 1, (3, 9)), (2, 0, (9,))]:
        verdict = Verdict(proposal, accepted, (*proposal.tokens[:accepted], 9), (*sources[:accepted], "corrected"))
        own = verdict.unforced()
        assert (own.proposal.tokens, own.proposal.sources) == ((3, 4), ("draft", "draft"))
        assert (own.accepted, own.tokens) == (kept, tokens)
    only = Verdict(Proposal((1, 2), ("forced", "forced")), 2, (1, 2, 9), ("forced", "forced", "bonus"))
    assert (only.unforced().proposal.tokens, only.unforced().tokens) == ((), (9,))


def test_a_limit_inside_a_forced_run_is_kept() -> None:
    for new in range(1, 12):
        done = constrained(OBJECT, SamplingParams(), NoDrafter(), new=new)
        assert len(tokens_of(done)) == new
        assert done[-1].finish == "length"


def test_the_draft_model_is_not_asked_for_what_is_forced() -> None:
    model = TableModel(VOCAB, seed=3, spread=3.0, noise=1.0)
    done = constrained(OBJECT, SamplingParams(), ModelDrafter(model, VOCAB, 1000), k=8)
    drafted = [source for each in done for source in each.drafted_sources]
    assert drafted.count("forced") > 10
    assert len(model.calls) == drafted.count("draft")


MOVES = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, VOCAB - 1)), min_size=1, max_size=8)


@given(MOVES)
@settings(max_examples=40)
def test_what_is_allowed_depends_on_the_context_alone(moves: list[tuple[int, int, int]]) -> None:
    """After growing, branching and rolling back, a follower allows the same tokens as a new one."""
    travelled = follow(WORDS)
    answer = encode("the lazy quick lazy quick dog.")
    context = Tokens(PROMPT)
    for back, on, wrong in moves:
        context = context.prefix(max(len(PROMPT), len(context) - back))
        said = len(context) - len(PROMPT)
        context = context.grow(answer[said : said + on])
        for tried in ([], [wrong], answer[on : on + 2]):
            branch = context + tried
            fresh = follow(WORDS)
            assert travelled.reach(branch) == fresh.reach(branch)
            assert allowed(travelled, branch) == allowed(fresh, branch)
            assert travelled.forced(branch) == fresh.forced(branch)


def test_the_end_is_allowed_only_where_the_grammar_accepts() -> None:
    follower = follow(WORDS)
    for text, ends in [("", False), ("the ", False), ("the lazy dog", True), ("the lazy dog.", True)]:
        context = Tokens([*PROMPT, *encode(text)])
        assert (END in allowed(follower, context)) == ends, text
        assert START not in allowed(follower, context)
    assert allowed(follower, Tokens([*PROMPT, *encode("the lazy dog.")])) == [END]


# The distribution

LETTERS = Constraint("regex", "[ab][cd][ab]?")
FLAT = TableModel(VOCAB, seed=5, spread=1.0)


def joint(params: SamplingParams) -> dict[tuple[int, ...], float]:
    """The probability of every answer by definition: each row without the forbidden tokens, warped."""
    found: dict[tuple[int, ...], float] = {}

    def visit(said: tuple[int, ...], probability: float) -> None:
        if said and said[-1] == END:
            found[said] = probability
            return
        row = torch.full((VOCAB,), -torch.inf)
        ids = allowed(follow(LETTERS), Tokens([*PROMPT, *said]))
        row[ids] = FLAT.row([*PROMPT, *said])[ids]
        for token, p in enumerate(distribution(row, params).tolist()):
            if p > 0:
                visit((*said, token), probability * p)

    visit((), 1.0)
    return found


def drawn(params: SamplingParams, drafter: Drafter, runs: int = 400) -> tuple[Counter[tuple[int, ...]], float]:
    counts: Counter[tuple[int, ...]] = Counter()
    drafted = accepted = 0
    for seed in range(runs):
        done = constrained(LETTERS, replace(params, seed=seed), drafter, k=3, target=FLAT)
        counts[tuple(tokens_of(done))] += 1
        drafted += sum(each.drafted for each in done)
        accepted += sum(each.accepted for each in done)
    return counts, accepted / drafted


SHAPES = [SamplingParams(temperature=1.0), SamplingParams(temperature=1.3, top_k=3, top_p=0.9)]


@pytest.mark.parametrize("params", SHAPES, ids=str)
def test_answers_are_distributed_as_the_constrained_target_says(params: SamplingParams) -> None:
    draft = TableModel(VOCAB, seed=5, spread=1.0, noise=0.7)
    counts, rate = drawn(params, ModelDrafter(draft, VOCAB, 1000))
    assert 0.3 < rate < 0.98
    assert chi_square_p(counts, joint(params)) > 0.001


def test_the_test_of_the_distribution_finds_a_biased_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    def accept_the_first(proposal: Proposal, picks: Sequence[int]) -> Verdict:
        kept = min(1, len(proposal.tokens), len(picks) - 1)
        return Verdict(proposal, kept, (*proposal.tokens[:kept], picks[kept]), (*proposal.sources[:kept], "corrected"))

    guess = encode("a")
    monkeypatch.setattr(decode_module, "verify", lambda p, picks: accept_the_first(p, [*picks, *picks[-1:]]))
    params = SamplingParams(temperature=1.0)
    counts, _ = drawn(params, Scripted(lambda ids: guess if len(ids) == len(PROMPT) else []))
    expected = joint(params)
    counts = Counter({said: n for said, n in counts.items() if said in expected})
    assert chi_square_p(counts, expected) < 1e-6


# Through a session


def ask(session: Any, constraint: Constraint = OBJECT, **options: Any) -> Finished:
    events = list(session.generate("the fox", raw=True, constraint=constraint, **options))
    assert isinstance(events[-1], Finished), events[-1]
    assert "".join(step.text for step in steps(events)) == events[-1].text
    return events[-1]


def test_a_session_keeps_to_the_constraint(tmp_path: Path) -> None:
    plain = ask(fake_session(TARGET, folder=tmp_path))
    assert json.loads(plain.text)
    assert (plain.reason, plain.complete, plain.stats.drafted_tokens) == ("end", True, 0)
    helped = ask(fake_session(TARGET, LookupDrafter(), folder=tmp_path))
    assert helped.text == plain.text
    assert helped.stats.by_source["forced"].accepted > 10
    sampled = SamplingChoice(temperature=1.0, seed=4)
    assert (
        ask(fake_session(TARGET, by_model(), folder=tmp_path), sampling=sampled).text
        == ask(fake_session(TARGET, folder=tmp_path), sampling=sampled).text
        != plain.text
    )


def test_an_answer_that_was_cut_is_not_complete(tmp_path: Path) -> None:
    session = fake_session(TARGET, LookupDrafter(), folder=tmp_path)
    whole = ask(session)
    for limit in (1, 7, whole.stats.generated_tokens - 2):
        cut = ask(session, max_new_tokens=limit)
        assert (cut.reason, cut.complete, cut.stats.generated_tokens) == ("length", False, limit)
    all_but_the_end = ask(session, max_new_tokens=whole.stats.generated_tokens - 1)
    assert (all_but_the_end.reason, all_but_the_end.complete) == ("length", True)
    stopped = ask(session, stop=['"kind"'])
    assert (stopped.reason, stopped.complete) == ("stop", False)
    may_end = ask(session, Constraint("regex", "the fox( runs){9}|the fox"), stop=[" runs"])
    assert (may_end.text, may_end.reason, may_end.complete) == ("the fox", "stop", True)


def test_a_second_turn_begins_anew(tmp_path: Path) -> None:
    session = fake_session(TARGET, LookupDrafter(), folder=tmp_path)
    assert ask(session).text == ask(session).text
    assert re.fullmatch("[0-9]{3}", ask(session, Constraint("regex", "[0-9]{3}")).text)
    assert len(ask(session, Constraint("regex", "the lazy dog")).text) == 12


@pytest.mark.parametrize(
    ("constraint", "words"),
    [
        (Constraint("json-schema", '{"type": "objct"}'), "JSON schema cannot be used: Invalid type: objct"),
        (Constraint("json-schema", '{"type": '), "it is no JSON: Expecting value"),
        (Constraint("json-schema", '{"enum": []}'), "Unsatisfiable"),
        (Constraint("json-schema", "[1]"), "must be an object"),
        (Constraint("regex", "(a"), "regex cannot be used: unclosed group"),
        (Constraint("regex", "(?=x)y"), "look-around"),
        (Constraint("grammar", 'start: "a" b'), 'unknown name: "b"'),
        (Constraint("grammar", "root ::= x"), "Rule 'x' not found"),
        (Constraint("grammar", ""), "grammar cannot be used"),
    ],
    ids=str,
)
def test_a_constraint_that_makes_no_sense_is_refused_in_one_line(
    tmp_path: Path, constraint: Constraint, words: str
) -> None:
    with pytest.raises(UsageError) as caught:
        compile_grammar(constraint)
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    (failed,) = fake_session(TARGET, folder=tmp_path).generate("the fox", constraint=constraint)
    assert isinstance(failed, Failed)


def test_a_model_without_an_end_token_cannot_be_constrained(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"eos_token_id": []}')
    session = fake_session(TARGET, folder=tmp_path, chat_template=None)
    events = list(session.generate("the fox", raw=True, constraint=OBJECT))
    assert isinstance(events[-1], Failed)
    assert "no end token" in str(events[-1].error)
