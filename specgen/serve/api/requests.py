"""Request bodies of OpenAI's API, checked and converted to calls of a session."""

import json
from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from specgen.core.defaults import COMPLETION_TOKENS
from specgen.core.errors import UsageError
from specgen.core.events import Event, Notice
from specgen.core.tokens import Tokens
from specgen.core.types import Constraint, Message, SamplingChoice
from specgen.engine.sampling.grammar import compile_grammar
from specgen.serve.api.errors import ApiError, unsupported, validation_error
from specgen.session.prompt import Prompt, chat_prompt, raw_prompt
from specgen.session.session import Session

# Values of an unsupported field that ask for nothing.
_NEUTRAL: tuple[object, ...] = (None, False, "", [], {})
_BOM = b"\xef\xbb\xbf"
_MAX_SEED = (1 << 63) - 1
_MAX_PROMPTS = 32


def _whole(value: object) -> object:
    """Read 2.0 as 2: JavaScript and JSON do not tell them apart."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _count(value: object) -> object:
    """Read -1 as no limit, as llama.cpp and its clients write it."""
    value = _whole(value)
    return None if value == -1 and not isinstance(value, bool) else value


def _seed(value: object) -> object:
    """Read -1 as a random seed, as llama.cpp does. Map other negative ones to the range of specgen's seeds."""
    value = _whole(value)
    if not isinstance(value, int) or isinstance(value, bool):
        return value
    return None if value == -1 else value & _MAX_SEED if -_MAX_SEED <= value < 0 else value


Whole = Annotated[int | None, BeforeValidator(_whole)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Penalty = Annotated[float, Field(ge=-2.0, le=2.0)] | None
Share = Annotated[float, Field(ge=0.0, le=1.0)] | None
Count = Annotated[Annotated[int, Field(ge=1)] | None, BeforeValidator(_count)]
Seed = Annotated[Annotated[int, Field(ge=0, le=_MAX_SEED)] | None, BeforeValidator(_seed)]


@dataclass(frozen=True, slots=True)
class CompletionRequest:
    """One request: either `messages`, or `prompts` that are continued as they are, as texts or token ids.

    `echo` puts the prompt before the text. `logprobs`: see Session.run. `think` switches thinking on or off. `ignored`
    names the fields without an effect.
    """

    messages: tuple[Message, ...] | None
    prompts: tuple[str | tuple[int, ...], ...]
    echo: bool
    sampling: SamplingChoice
    max_new_tokens: int | None
    stop: tuple[str, ...]
    stream: bool
    with_usage: bool
    logprobs: int | None
    model: str | None
    constraint: Constraint | None
    think: bool | None
    ignored: tuple[str, ...]

    @property
    def is_chat(self) -> bool:
        return self.messages is not None

    @property
    def choices(self) -> int:
        """The number of answers."""
        return len(self.prompts) or 1

    def prefix(self, index: int) -> str:
        """The text before answer `index`: the prompt with `echo`."""
        prompt = self.prompts[index] if self.echo else ""
        return prompt if isinstance(prompt, str) else ""

    def answer(self, session: Session, index: int) -> Generator[Event, None, None]:
        """The events of answer `index`. Raises SpecgenError."""
        yield from session.open()
        prompt = self._prompt(session, index)
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

    def _prompt(self, session: Session, index: int) -> Prompt:
        tokenizer = session.pair.tokenizer
        if self.messages is not None:
            return chat_prompt(tokenizer, self.messages, self.think)
        prompt = self.prompts[index]
        if isinstance(prompt, str):
            return raw_prompt(tokenizer, prompt)
        size = session.pair.target.vocab_size
        if wrong := [token for token in prompt if not 0 <= token < size]:
            raise UsageError(f"prompt: token id {wrong[0]} is not in the vocabulary", hint=f"ids are below {size}")
        return Prompt("", prompt)


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
    model_config = ConfigDict(extra="ignore", strict=True)  # clients send back answers with all their fields

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None
    tool_calls: object = None
    function_call: object = None


class _Request(_Body):
    """The fields of both endpoints. Fields of type `object` are checked below where they matter."""

    model: str | None = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None
    stop: str | list[str] | None = None
    seed: Seed = None
    temperature: Annotated[Finite, Field(ge=0.0)] | None = None
    top_p: Share = None
    presence_penalty: Penalty = None
    frequency_penalty: Penalty = None
    max_tokens: Count = None
    n: Whole = None
    # Not OpenAI's, but common among servers of open models.
    top_k: Annotated[Annotated[int, Field(ge=0, lt=1 << 63)] | None, BeforeValidator(_count)] = None
    min_p: Share = None
    repetition_penalty: Annotated[Finite, Field(ge=0.01)] | None = None
    logit_bias: object = None
    # Without an effect on the answer.
    cache_prompt: object = None
    metadata: object = None
    prompt_cache_key: object = None
    prompt_cache_retention: object = None
    safety_identifier: object = None
    service_tier: object = None
    store: object = None
    user: object = None


_IGNORED = (
    "cache_prompt",
    "metadata",
    "parallel_tool_calls",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_retention",
    "reasoning_effort",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
    "verbosity",
)


class _Text(_Body):
    type: Literal["text"]


class _Object(_Body):
    type: Literal["json_object"]


class _Named(_Body):
    name: str
    schema_: Annotated[dict[str, Any], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None  # every answer follows its schema


class _Schema(_Body):
    type: Literal["json_schema"]
    json_schema: _Named


class _TemplateSwitches(_Body):
    """The variables of chat templates that switch thinking, as vLLM's clients send them."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class _Chat(_Request):
    messages: Annotated[list[_Turn], Field(min_length=1)]
    max_completion_tokens: Count = None
    response_format: _Text | _Object | _Schema | None = Field(default=None, discriminator="type")
    logprobs: bool | None = None
    top_logprobs: Annotated[Annotated[int, Field(ge=0, le=20)] | None, BeforeValidator(_whole)] = None
    chat_template_kwargs: _TemplateSwitches | None = None
    tools: object = None
    tool_choice: object = None
    functions: object = None
    function_call: object = None
    audio: object = None
    modalities: object = None
    web_search_options: object = None
    parallel_tool_calls: object = None
    prediction: object = None
    reasoning_effort: str | None = None
    verbosity: object = None


class _Completion(_Request):
    prompt: str | list[str] | list[int] | list[list[int]]
    logprobs: Annotated[Annotated[int, Field(ge=0, le=5)] | Literal[False] | None, BeforeValidator(_whole)] = None
    best_of: Whole = None
    echo: bool | None = None
    suffix: object = None


Body = TypeVar("Body", bound=_Request)


def read_chat(body: bytes, max_stops: int) -> CompletionRequest:
    """Parse a body of /v1/chat/completions with at most `max_stops` stop strings. Raises ApiError."""
    asked = _parse(_Chat, body)
    _refuse(asked, ("tools", "functions", "function_call", "audio", "web_search_options"))
    if asked.top_logprobs is not None and not asked.logprobs:
        raise ApiError("top_logprobs needs logprobs: true", param="top_logprobs")
    if asked.tool_choice not in (None, "none", "auto"):
        raise unsupported("tool_choice")
    if asked.modalities not in (None, ["text"]):
        raise unsupported("modalities")
    if None not in (asked.max_tokens, asked.max_completion_tokens):
        raise ApiError("max_tokens is the old name of max_completion_tokens; give one of them", param="max_tokens")
    return replace(
        _request(asked, max_stops),
        messages=tuple(_message(turn, index) for index, turn in enumerate(asked.messages)),
        max_new_tokens=asked.max_completion_tokens or asked.max_tokens,
        logprobs=asked.top_logprobs or 0 if asked.logprobs else None,
        constraint=_constraint(asked.response_format),
        think=_think(asked),
    )


def read_completion(body: bytes, max_stops: int) -> CompletionRequest:
    """Parse a body of /v1/completions with at most `max_stops` stop strings. Raises ApiError."""
    asked = _parse(_Completion, body)
    _refuse(asked, ("suffix",))
    if asked.best_of not in (None, 1):
        raise unsupported("best_of", "one answer is generated")
    prompts = _prompts(asked.prompt)
    logprobs = None if asked.logprobs is False else asked.logprobs
    if asked.echo and logprobs is not None:
        raise unsupported("echo", "the log-probabilities of a prompt are not computed")
    if asked.echo and not all(isinstance(prompt, str) for prompt in prompts):
        raise unsupported("echo", "the prompt is given as token ids")
    limit = None if _is_unlimited(asked) else asked.max_tokens or COMPLETION_TOKENS
    return replace(
        _request(asked, max_stops), prompts=prompts, echo=bool(asked.echo), max_new_tokens=limit, logprobs=logprobs
    )


def _is_unlimited(asked: _Request) -> bool:
    """Whether max_tokens was -1, which `_count` reads as None."""
    return "max_tokens" in asked.model_fields_set and asked.max_tokens is None


def _prompts(prompt: str | list[str] | list[int] | list[list[int]]) -> tuple[str | tuple[int, ...], ...]:
    """The prompts of a request: texts, or lists of token ids."""
    if isinstance(prompt, str):
        return (prompt,)
    if not prompt:
        raise ApiError("prompt is empty", param="prompt")
    if isinstance(prompt[0], int):
        return (tuple(token for token in prompt if isinstance(token, int)),)
    if len(prompt) > _MAX_PROMPTS:
        raise ApiError(f"prompt has {len(prompt)} prompts; send at most {_MAX_PROMPTS} in a request", param="prompt")
    return tuple(tuple(each) if isinstance(each, list) else str(each) for each in prompt)


def _think(asked: _Chat) -> bool | None:
    """Whether the caller switches thinking. None leaves it to the template."""
    switches = asked.chat_template_kwargs or _TemplateSwitches()
    for switch in (switches.enable_thinking, switches.thinking):
        if switch is not None:
            return switch
    return False if asked.reasoning_effort == "none" else None


def _constraint(form: _Text | _Object | _Schema | None) -> Constraint | None:
    """The constraint of `response_format`. Raises ApiError for a schema that cannot be satisfied or compiled."""
    if form is None or isinstance(form, _Text):
        return None
    schema = form.json_schema.schema_ if isinstance(form, _Schema) else {"type": "object"}
    constraint = Constraint("json-schema", json.dumps(schema))
    try:
        compile_grammar(constraint)
    except UsageError as error:
        raise ApiError(f"response_format: {error.message}", param="response_format") from error
    return constraint


def _parse(kind: type[Body], body: bytes) -> Body:
    try:
        return kind.model_validate_json(body.removeprefix(_BOM))
    except ValidationError as error:
        raise validation_error(error) from error


def _refuse(asked: _Request, fields: Sequence[str]) -> None:
    """Refuse unsupported fields that would change the answer."""
    for field in ("logit_bias", *fields):
        if getattr(asked, field) not in _NEUTRAL:
            raise unsupported(field)
    if asked.n not in (None, 1):
        raise unsupported("n", "one answer is generated")


def _message(turn: _Turn, index: int) -> Message:
    role = "system" if turn.role == "developer" else turn.role
    for field in ("tool_calls", "function_call"):
        if getattr(turn, field) not in _NEUTRAL:
            raise unsupported(f"messages.{index}.{field}")
    if turn.content is None:
        if role != "assistant":
            raise ApiError(f"messages.{index}.content is missing", param=f"messages.{index}.content")
        return Message(role, "")
    if isinstance(turn.content, str):
        return Message(role, turn.content)
    for part in turn.content:
        if part.type != "text" or part.text is None:
            raise unsupported(f"messages.{index}.content", f"a part of type {part.type}")
    return Message(role, "".join(part.text or "" for part in turn.content))


def _request(asked: _Request, max_stops: int) -> CompletionRequest:
    """The fields that both endpoints share."""
    given = [asked.stop] if isinstance(asked.stop, str) else asked.stop or []
    stop = tuple(filter(None, given))  # an empty stop string stops nothing
    if len(stop) > max_stops:
        raise ApiError(f"stop has {len(stop)} texts; give at most {max_stops}", param="stop")
    return CompletionRequest(
        messages=None,
        prompts=(),
        echo=False,
        sampling=SamplingChoice(**{name: getattr(asked, name) for name in SamplingChoice.__slots__}),
        max_new_tokens=None,
        stop=stop,
        stream=bool(asked.stream),
        with_usage=bool(asked.stream_options and asked.stream_options.include_usage),
        logprobs=None,
        model=asked.model,
        constraint=None,
        think=None,
        ignored=tuple(name for name in _IGNORED if getattr(asked, name, None) not in (None, "none")),
    )
