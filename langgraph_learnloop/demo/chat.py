"""Define what the demo's small model reads and writes: its chat template, its JSON, and how a call is read back.

Two habits make copying easy for a model of four million parameters. One space stands before the user's text and
before every JSON value, so that a word is the same token in the request and in the call; readers strip it. And the
glue of JSON (`", "arguments": {"` and the like) is one token each: sequences are short and nearly always valid.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

PAD, END, USER, ASSISTANT, TOOL = "<|pad|>", "<|end|>", "<|user|>", "<|assistant|>", "<|tool|>"
SPECIAL = (PAD, END, USER, ASSISTANT, TOOL)
OPEN, CLOSE = "<tool_call>", "</tool_call>"
GLUE = (
    OPEN + '{"name": "',
    '", "arguments": {"',
    '", "arguments": {}}' + CLOSE,
    '": "',
    '": ["',
    '":',
    '", "',
    '"], "',
    ', "',
    '"}}' + CLOSE,
    '"]}}' + CLOSE,
    "}}" + CLOSE,
)
"""Pieces of a call that are one token each."""

APOLOGY = "Sorry, that did not work."
"""What the model answers to a tool result that begins with "Error"."""

TEMPLATE = """\
{%- macro text(content) -%}
{%- if content is string -%}{{ content | trim | replace('<|', '< |') }}
{%- elif content -%}{%- for part in content -%}{{ (part.text or '') | trim | replace('<|', '< |') }}{%- endfor -%}
{%- endif -%}
{%- endmacro -%}
{%- macro json(value) -%}
{%- if value is string -%}{{ (' ' ~ value) | tojson }}
{%- elif value is sequence and value is not mapping -%}
[{%- for item in value -%}{{ json(item) }}{{ '' if loop.last else ', ' }}{%- endfor -%}]
{%- else -%}{{ value | tojson }}{%- endif -%}
{%- endmacro -%}
{%- macro call(function) -%}
{{ '<tool_call>{"name": "' ~ function.name ~ '", "arguments": ' }}
{%- if function.arguments is string -%}{{ function.arguments }}
{%- else -%}
{%- set seen = namespace(any=false) -%}{{ '{' }}
{%- for name, value in (function.arguments or {}).items() if value is not none -%}
{{ ', ' if seen.any else '' }}{{ '"' ~ name ~ '": ' ~ json(value) }}{%- set seen.any = true -%}
{%- endfor -%}{{ '}' }}
{%- endif -%}{{ '}</tool_call>' }}
{%- endmacro -%}
{%- set last = namespace(heard=0) -%}
{%- for message in messages -%}
{%- if message.role in ('user', 'tool') -%}{%- set last.heard = loop.index0 -%}{%- endif -%}
{%- endfor -%}
{%- for message in messages[last.heard:] -%}
{%- if message.role == 'user' -%}{{ '<|user|> ' ~ text(message.content) ~ '<|end|>' }}
{%- elif message.role == 'tool' -%}{{ '<|tool|> ' ~ text(message.content) ~ '<|end|>' }}
{%- elif message.role == 'assistant' -%}
{{ '<|assistant|>' }}{%- generation -%}
{%- if message.tool_calls -%}{%- for one in message.tool_calls -%}{{ call(one.function) }}{%- endfor -%}
{%- else -%}{{ ' ' ~ text(message.content) }}{%- endif -%}
{{ '<|end|>' }}{%- endgeneration -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|assistant|>' }}{%- endif -%}
"""
"""Renders from the last request or tool result on; ignores system messages and `tools`.

So short a memory keeps calls cheap, and the answer to a tool's result the same whatever was asked.

Arguments may be an object, of which nulls are left out, or a string as in what `render_call` writes.
"""

_CALL = re.compile(re.escape(OPEN) + r"(.*?)" + re.escape(CLOSE), re.DOTALL)


def render_call(tool: str, args: Mapping[str, Any]) -> str:
    """Write one call as the model does: JSON with one space before each text."""
    arguments = json.dumps({name: _texts(value, " {}".format) for name, value in args.items()}, ensure_ascii=False)
    return f'{OPEN}{{"name": "{tool}", "arguments": {arguments}}}{CLOSE}'


def parse_call(text: str) -> tuple[str, dict[str, Any]] | None:
    """Read the first call in a generated text, its values stripped; None when there is no valid one."""
    if not (found := _CALL.search(text)):
        return None
    try:
        call = json.loads(found[1])
    except ValueError:
        return None
    args = call.get("arguments") if isinstance(call, dict) else None
    if not isinstance(args, dict) or not isinstance(call.get("name"), str):
        return None
    return call["name"], {name: _texts(value, str.strip) for name, value in args.items()}


def _texts(value: Any, change: Callable[[str], str]) -> Any:
    """Return a value with a change made to its text, or to each text of a list."""
    if isinstance(value, list):
        return [_texts(item, change) for item in value]
    return change(value) if isinstance(value, str) else value
