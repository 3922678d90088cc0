"""Chat templates like those of real models, rendered and compared with transformers' apply_chat_template."""

import os
import signal
from datetime import datetime
from threading import Timer
from typing import Any

import pytest
from jinja2 import TemplateError
from tokenizers import Tokenizer as Backend
from tokenizers import models
from transformers import PreTrainedTokenizerFast

from specgen.checkpoint.chat_template import render
from specgen.core.errors import UnsupportedModel, UsageError
from specgen.core.types import Message

CHATML = """{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{%- if tools %}{{- tools | tojson }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
{%- endif %}
"""
LLAMA = """{{- bos_token }}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system = messages[0]['content']|trim %}{%- set messages = messages[1:] %}
{%- else %}{%- set system = "" %}{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday: " + date_string + "\\n\\n" + system + "<|eot_id|>" }}
{%- for message in messages %}
    {%- if message.role == 'assistant' %}
        {%- generation %}{{- '<|start_header_id|>assistant\\n\\n' + message.content | trim + eos_token }}
        {%- endgeneration %}
    {%- else %}{{- '<|start_header_id|>' + message['role'] + '\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{%- endif %}
"""
MISTRAL = """{{ bos_token }}{% for message in messages %}
{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('Conversation roles must alternate\\n  user/assistant/user/assistant/...') }}
{% endif %}
  {% if message['role'] == 'user' %}
{{ '[INST] ' + message['content'] + ' [/INST]' }}
  {% else %}
{{ message['content'] + eos_token }}
  {% endif %}
{% endfor %}
"""
GEMMA = """{{ bos_token }}{% if messages[0]['role'] == 'system' %}
{{ raise_exception('System role not supported') }}{% endif %}
{% for message in messages %}{% if (message['role'] == 'assistant') %}{% set role = 'model' %}{% else %}
{% set role = message['role'] %}{% endif %}
{{ '<start_of_turn>' + role + '\n' + message['content'] | trim + '<end_of_turn>\n' }}{% endfor %}
{% if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}"""
THINKING = """{%- set ns = namespace(last=0) %}
{%- for message in messages %}{% if message.role == 'user' %}{% set ns.last = loop.index0 %}{% endif %}{% endfor %}
{%- for message in messages %}
    {%- set content = message.content %}
    {%- if message.role == 'assistant' and '</think>' in content and loop.index0 < ns.last %}
        {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
    {%- endif %}
    {{- '<|' + message.role + '|>' + content + '<|end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|assistant|>' }}
    {%- if enable_thinking is defined and not enable_thinking %}{{- '<think>\\n\\n</think>\\n\\n' }}{%- endif %}
{%- endif %}
"""
TOOLBOX = """{% for message in messages %}
    {% if loop.index > 3 %}{% break %}{% endif %}
    {% if message.content == 'b' %}{% continue %}{% endif %}
{{ loop.index }} {{ message | tojson }} {{ dict(a='<é>', b=[1]) | tojson(indent=1) }}
{{ {'z': 1, 'a': "it's"} | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}
{% endfor %}
{{ dict.fromkeys(['k'], tools) }} {{ documents }}
{% set x = 1 %}{% generation %}{% set x = 2 %}{% endgeneration %}{{ x }}

trailing newline
"""
TEMPLATES = {
    "chatml": CHATML, "llama": LLAMA, "mistral": MISTRAL, "gemma": GEMMA, "thinking": THINKING, "toolbox": TOOLBOX,
}  # fmt: skip
TURNS = [("user", " <b>a</b> \n"), ("assistant", "<think>\nhm\n</think>\n\nb {{ x }}"), ("user", "naïve 你")]
CONVERSATIONS = {
    "one": TURNS[:1],
    "turns": TURNS,
    "system": [("system", " Be brief. "), *TURNS],
    "two_users": [("user", "b"), ("user", "c")],
}
NAMES = {"bos_token": "<s>", "eos_token": "</s>"}


def ours(template: str, turns: list[tuple[str, str]], prompt: bool = True, **variables: Any) -> str:
    messages = [Message(role, content) for role, content in turns]
    return render(template, messages, special_tokens=NAMES, add_generation_prompt=prompt, **variables)


@pytest.fixture(scope="module")
def theirs() -> Any:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Backend(models.WordLevel({"<s>": 0, "</s>": 1}, "<s>")), **NAMES
    )

    def apply(template: str, turns: list[tuple[str, str]], prompt: bool = True, **variables: Any) -> str:
        messages = [{"role": role, "content": content} for role, content in turns]
        return str(
            tokenizer.apply_chat_template(
                messages, chat_template=template, tokenize=False, add_generation_prompt=prompt, **variables
            )
        )

    return apply


@pytest.mark.parametrize("prompt", [True, False])
@pytest.mark.parametrize("turns", CONVERSATIONS.values(), ids=CONVERSATIONS)
@pytest.mark.parametrize("template", TEMPLATES.values(), ids=TEMPLATES)
def test_rendered_as_transformers_does(template: str, turns: list[tuple[str, str]], prompt: bool, theirs: Any) -> None:
    assert outcome(ours, template, turns, prompt) == outcome(theirs, template, turns, prompt)


def outcome(apply: Any, template: str, turns: list[tuple[str, str]], prompt: bool) -> str:
    """The rendered text, or "refused". Another test checks the text of refusals."""
    try:
        return str(apply(template, turns, prompt))
    except (UsageError, TemplateError):
        return "refused"


def test_variables_reach_the_template_and_win_over_special_tokens(theirs: Any) -> None:
    variables = {"enable_thinking": False, "bos_token": "<BOS>", "date_string": "1 Jan 2020"}
    assert ours(THINKING, TURNS, **variables) == theirs(THINKING, TURNS, **variables)
    assert ours(THINKING, TURNS, **variables).endswith("<|assistant|><think>\n\n</think>\n\n")
    assert ours(LLAMA, TURNS, **variables) == theirs(LLAMA, TURNS, **variables)
    assert ours(LLAMA, TURNS, **variables).startswith("<BOS>")
    assert "Today: 1 Jan 2020" in ours(LLAMA, TURNS, **variables)


def test_thoughts_of_earlier_turns_are_the_template_s_to_drop() -> None:
    assert "hm" not in ours(THINKING, TURNS)


def test_the_date_is_today() -> None:
    before = f"{datetime.now():%Y-%m-%d}"
    assert ours("{{ strftime_now(format='%Y-%m-%d') }}", TURNS) in (before, f"{datetime.now():%Y-%m-%d}")


@pytest.mark.parametrize(
    ("template", "turns", "words"),
    [
        (GEMMA, CONVERSATIONS["system"], "refuses these messages: System role not supported"),
        (MISTRAL, CONVERSATIONS["two_users"], "roles must alternate user/assistant/user/assistant/..."),
    ],
)
def test_a_refusal_is_one_line_in_the_template_s_words(template: str, turns: Any, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        ours(template, turns)
    assert words in caught.value.message
    assert caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "template",
    [
        "{% if %}",
        "{{ messages[0].missing.deeper }}",
        "{{ messages[0].content + 1 }}",
        "{{ 1 // 0 }}",
        "{{ messages[9].content }}",
        "{{ (1).__class__.__mro__ }}",
        "{{ messages.append(1) }}",
        "{{ namespace(_x=1) }}",
        "{% set n = namespace() %}{% set n._x = 1 %}",
        "{{ dict.mro() }}",
        "{% include 'other' %}",
    ],
)
def test_a_broken_template_is_the_model_s_fault(template: str, theirs: Any) -> None:
    with pytest.raises(UnsupportedModel, match="chat template") as caught:
        ours(template, TURNS)
    assert "\n" not in str(caught.value)
    with pytest.raises(Exception):  # noqa: B017 - whatever transformers raises
        theirs(template, TURNS)


def test_a_namespace_takes_any_other_name(theirs: Any) -> None:
    template = "{% set n = namespace({'a': 1}, self=2) %}{% set n.a = n.a + n['self'] %}{{ n.a }}"
    assert ours(template, TURNS) == theirs(template, TURNS) == "3"


def test_the_dict_of_templates_is_not_the_class(theirs: Any) -> None:
    template = "{{ dict.items is defined }} {{ dict.fromkeys is defined }}"
    assert ours(template, TURNS) == theirs(template, TURNS) == "False True"


ATTACKS = {
    "nested loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% for c in range(99999) %}{% endfor %}"
    "{% endfor %}{% endfor %}",
    "an integer": "{{ 10 ** 1000000000 }}",
    "a power at run time": "{% set n = 1000000000 %}{{ 10 ** n }}",
    "a long text": "{{ 'a ' * 30000000 }}",
    "doubling": "{% set n = namespace(s='a' * 99999) %}{% for i in range(40) %}{% set n.s = n.s ~ n.s %}{% endfor %}",
    "a width": "{{ '%9999999999d' % 1 }}",
    "padding": "{{ 'a'.ljust(9999999999) }}",
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "deep nesting": "{{ " + "(" * 100000 + "1" + ")" * 100000 + " }}",
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_hostile_template_ends_in_one_line(attack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.checkpoint.chat_template._CPU_S", 1.0)
    with pytest.raises(UnsupportedModel, match=r"the model's chat template (fails|cannot be read): .+; use another"):
        ours(ATTACKS[attack], TURNS)
    assert ours("{{ messages[0].content }}", TURNS) == TURNS[0][1], "the next template is rendered"


def test_an_endless_template_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.checkpoint.chat_template._CPU_S", 1.0)
    template = "{{ 11 ** 1000000000 }}"
    for _ in range(2):
        with pytest.raises(UnsupportedModel, match="it takes too long"):
            ours(template, TURNS)
        monkeypatch.setattr("specgen.checkpoint.chat_template._RENDERER.ask", lambda _: pytest.fail("asked again"))


def test_ctrl_c_ends_a_template_that_never_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("specgen.checkpoint.chat_template._CPU_S", 600.0)
    signalled = Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT))
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        signalled.start()
        with pytest.raises(KeyboardInterrupt):
            ours("{{ 12 ** 1000000000 }}", TURNS)
    finally:
        signal.signal(signal.SIGINT, before)
    assert ours("{{ messages[0].content }}", TURNS) == TURNS[0][1]


def test_a_long_conversation_is_not_a_long_template() -> None:
    text = "word " * 2_000_000
    assert ours("{{ messages[0].content }}", [("user", text)]) == text
