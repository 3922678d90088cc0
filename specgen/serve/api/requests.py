"""What a caller asks: the bodies of OpenAI's API, checked, as what a session takes."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from specgen.core.defaults import COMPLETION_TOKENS
from specgen.core.errors import UsageError
from specgen.core.events import Event, Notice
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, Message, SamplingChoice
from specgen.engine.sampling.grammar import compile_grammar
from specgen.serve.api.errors import ApiError, unsupported, validation_error
from specgen.session.prompt import chat_prompt, raw_prompt
from specgen.session.session import Session

_NEUTRAL: tuple[object, ...] = (None, False, [], {})

Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)] | None
Share = Annotated[float, Field(ge=0.0, le=1.0)] | None
Count = Annotated[int, Field(ge=1)] | None


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request. Either `messages` or a `prompt` that is continued as it is. `logprobs` see Session.run."""

    messages: tuple[Message, ...] | None
    prompt: str
    sampling: SamplingChoice
    max_new_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    with_usage: bool
    logprobs: int | None
    model: str | None
    user: str
    constraint: Constraint | None

    @property
    def is_chat(self) -> bool:
        return self.messages is not None

    def answer(self, session: Session) -> Generator[Event, None, None]:
        """Everything that comes of it. Raises SpecgenError."""
        yield from session.open()
        tokenizer = session.pair.tokenizer
        prompt = raw_prompt(tokenizer, self.prompt) if self.messages is None else chat_prompt(tokenizer, self.messages)
        if prompt.notice:
            yield Notice(prompt.notice)
        yield from session.run(
            Tokens(prompt.ids),
            sampling=self.sampling,
            max_new_tokens=self.max_new_tokens,
            stop=self.stop,
            thinking=prompt.thinking,
            constraint=self.constraint,
            logprobs=self.logprobs,
        )


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class _StreamOptions(_Body):
    include_usage: bool = False
    include_obfuscation: object = None


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)

    type: str
    text: str | None = None


class _Turn(BaseModel):
    model_config = ConfigDict(extra="ignore", strict=True)  # a client sends back what it was given, whatever that has

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part]


class _Request(_Body):
    """The fields that both kinds share. Those typed `object` are accepted, and refused below where they matter."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    temperature: Annotated[Finite, Field(ge=0.0)] | None = None
    top_p: Share = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    max_tokens: Count = None
    n: int | None = None
    # Not OpenAI's, but what servers of open models share.
    top_k: Annotated[int, Field(ge=0, lt=1 << 63)] | None = None
    min_p: Share = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01)] | None = None
    logit_bias: object = None
    user: str | None = None


class _Text(_Body):
    type: Literal["text"]


class _Object(_Body):
    type: Literal["json_object"]


class _Named(_Body):
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None  # an answer keeps to its schema in any case


class _Schema(_Body):
    type: Literal["json_schema"]
    json_schema: _Named


class _Chat(_Request):
    messages: Annotated[list[_Turn], Field(min_length=1)]
    max_completion_tokens: Count = None
    response_format: _Text | _Object | _Schema | None = Field(default=None, discriminator="type")
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    tools: object = None
    tool_choice: object = None
    functions: object = None
    function_call: object = None
    audio: object = None
    modalities: object = None
    # These say where, for whom and how fast, never what.
    metadata: object = None
    parallel_tool_calls: object = None
    prediction: object = None
    prompt_cache_key: object = None
    prompt_cache_retention: object = None
    safety_identifier: object = None
    service_tier: object = None
    store: object = None


class _Completion(_Request):
    prompt: str | list[str]
    logprobs: Annotated[int, Field(ge=0, le=5)] | None = None
    best_of: int | None = None
    echo: object = None
    suffix: object = None


Asked = TypeVar("Asked", bound=_Request)


def read_chat(body: bytes, stops: int) -> CompletionRequest:
    """The question in the body of /v1/chat/completions, with at most so many `stops`. Raises ApiError."""
    asked = _read(_Chat, body)
    _refuse(asked, ("tools", "functions", "function_call", "audio"))
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    if asked.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice")
    if asked.modalities not in (None, ["text"]):
        raise unsupported("modalities")
    if asked.max_tokens is not None and asked.max_completion_tokens is not None:
        raise ApiError("max_tokens is the old name of max_completion_tokens; give one of them", param="max_tokens")
    messages = tuple(_message(turn, index) for index, turn in enumerate(asked.messages))
    limit = asked.max_completion_tokens or asked.max_tokens
    logprobs = asked.top_logprobs or 0 if asked.logprobs else None
    return _question(asked, messages, "", limit, stops, logprobs, _constraint(asked.response_format))


def read_completion(body: bytes, stops: int) -> CompletionRequest:
    """The question in the body of /v1/completions, with at most so many `stops`. Raises ApiError."""
    asked = _read(_Completion, body)
    _refuse(asked, ("echo", "suffix"))
    if asked.best_of not in (None, 1):
        raise unsupported("best_of", "one answer is generated")
    prompts = [asked.prompt] if isinstance(asked.prompt, str) else asked.prompt
    if len(prompts) != 1:
        raise ApiError(f"prompt has {len(prompts)} texts; send one in a request", param="prompt")
    return _question(asked, None, prompts[0], asked.max_tokens or COMPLETION_TOKENS, stops, asked.logprobs)


def _constraint(form: _Text | _Object | _Schema | None) -> Constraint | None:
    """What `response_format` asks for. Raises ApiError for a schema that nothing satisfies, or that makes no sense."""
    if form is None or isinstance(form, _Text):
        return None
    schema = form.json_schema.schema_ if isinstance(form, _Schema) else {"type": "object"}
    constraint = Constraint("json-schema", json.dumps(schema))
    try:
        compile_grammar(constraint)
    except UsageError as error:
        raise ApiError(f"response_format: {error.message}", param="response_format") from error
    return constraint


def _read(kind: type[Asked], body: bytes) -> Asked:
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        raise validation_error(error) from error


def _refuse(asked: _Request, fields: Sequence[str]) -> None:
    """Refuse fields that would change the answer."""
    for field in ("logit_bias", *fields):
        if getattr(asked, field) not in _NEUTRAL:
            raise unsupported(field)
    if asked.n not in (None, 1):
        raise unsupported("n", "one answer is generated")


def _message(turn: _Turn, index: int) -> Message:
    role = "system" if turn.role == "developer" else turn.role
    if isinstance(turn.content, str):
        return Message(role, turn.content)
    for part in turn.content:
        if part.type != "text" or part.text is None:
            raise unsupported(f"messages.{index}.content", f"a part of type {part.type}")
    return Message(role, "".join(part.text or "" for part in turn.content))


def _question(
    asked: _Request,
    messages: tuple[Message, ...] | None,
    prompt: str,
    max_new_tokens: int | None,
    stops: int,
    logprobs: int | None,
    constraint: Constraint | None = None,
) -> CompletionRequest:
    stop = (asked.stop,) if isinstance(asked.stop, str) else tuple(asked.stop or ())
    if "" in stop or len(stop) > stops:
        raise ApiError(f"stop is a text, or up to {stops} of them, and none is empty", param="stop")
    return CompletionRequest(
        messages=messages,
        prompt=prompt,
        sampling=SamplingChoice(**{name: getattr(asked, name) for name in SamplingChoice.__slots__}),
        max_new_tokens=max_new_tokens,
        stop=stop,
        stream=bool(asked.stream),
        with_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        logprobs=logprobs,
        model=asked.model,
        user=asked.user or "",
        constraint=constraint,
    )
