"""Whatever a body holds, it is a question or a refusal in words."""

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from specgen.serve.api.app import Parse
from specgen.serve.api.errors import ApiError
from specgen.serve.api.requests import CompletionRequest, _Chat, _Completion, read_chat, read_completion

FIELDS = sorted({*_Chat.model_fields, *_Completion.model_fields})
values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
turns = st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "robot"]), "content": values})
asked = st.fixed_dictionaries({"messages": st.lists(turns, max_size=2), "prompt": st.text(max_size=5) | values})
bodies = st.builds(
    lambda needed, more: {**needed, **more}, asked, st.dictionaries(st.sampled_from(FIELDS), values, max_size=4)
)


def answer(read: Parse, sent: bytes) -> CompletionRequest | ApiError:
    try:
        return read(sent, 4)
    except ApiError as refused:
        return refused


@given(bodies)
def test_a_body_is_a_question_or_is_refused(body: dict[str, Any]) -> None:
    for read, without in ((read_chat, "prompt"), (read_completion, "messages")):
        sent = json.dumps({name: value for name, value in body.items() if name != without}).encode()
        match answer(read, sent):
            case ApiError() as refused:
                assert refused.status == 400
                assert json.dumps(refused.body())
            case CompletionRequest() as question:
                assert question.max_new_tokens is None or question.max_new_tokens >= 1
                assert "" not in question.stop


@given(st.binary(max_size=60))
def test_noise_is_refused(noise: bytes) -> None:
    for read in (read_chat, read_completion):
        refused = answer(read, noise)
        assert isinstance(refused, ApiError)
        assert refused.status == 400
