"""What every contender reads of a prompt."""

from collections.abc import Mapping, Sequence

from specgen.bench.suites import SuitePrompt
from specgen.core.errors import UsageError
from specgen.core.events import Notice
from specgen.core.progress import Reporting
from specgen.core.types import Message
from specgen.session.pair import Pair
from specgen.session.prompt import chat_prompt


def fit(pair: Pair, prompts: Sequence[SuitePrompt], new: int) -> Reporting[Mapping[SuitePrompt, Sequence[int]]]:
    """The ids of every prompt; of one that is too long its end, so that every contender reads the same."""
    room = pair.context_length - new
    if room < 1:
        raise UsageError(f"-n {new} leaves no room in a context of {pair.context_length}", hint="ask for fewer tokens")
    whole = {prompt: chat_prompt(pair.tokenizer, [Message("user", prompt.text)]).ids for prompt in prompts}
    if too_long := sum(len(ids) > room for ids in whole.values()):
        yield Notice(f"{too_long} of {len(whole)} prompts are too long: the last {room} tokens of each are read")
    return {prompt: ids[-room:] for prompt, ids in whole.items()}
