"""What a policy was trained to speak, saved beside its tokenizer: a template of ours as `chat_template.jinja`.

So a server, the harness or anyone who calls `apply_chat_template` on a saved policy asks it as it learned to be asked,
token for token, whatever its parent's template was. The study itself asks by `templates.render`, never by this file.
Not covered: tools, contents that are no text, roles that our templates do not have (they are refused), and a template's
`input`: messages from elsewhere do not say where their instruction ends.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from workflow_scripts.common import templates
from workflow_scripts.common.files import finished_file, read_json, write_json
from workflow_scripts.common.templates import ends_of, is_own, reply_end, reply_part, strips_content

FILE = "chat_template.jinja"
# Of the first two messages: a user's turn comes after the system message, a system message before the user's turn.
FOLLOWED = "loop.nextitem is defined and loop.nextitem['role'] == 'user'"
FOLLOWING = "loop.previtem['role'] == 'system'"
ROLES = ("system", "user", "assistant")
SPACES = json.dumps(templates.SPACES)  # a list in Jinja, too
Write = Callable[[list[str]], str]
# What older folders have beside or instead of it, and what would be read before it.
OTHERS = ("chat_template.json", "additional_chat_templates")


def words(text: str, filled: bool = True) -> list[str]:
    """Return Jinja expressions for a text; if they are filled in, {bos} and {eos} are the tokenizer's own tokens."""
    named = {"{bos}": "(bos_token or '')", "{eos}": "(eos_token or '')"} if filled else {}
    parts = re.split(r"(\{bos\}|\{eos\})", text) if filled else [text]
    # JSON's escapes are Jinja's, as long as what is not ASCII is left as it is.
    return [named.get(part) or json.dumps(part, ensure_ascii=False) for part in parts if part]


def message_of(part: dict, content: str, write: Write) -> str:
    """Return the Jinja statement that writes a message of a role, its content a Jinja expression."""
    before, lead = words(part["before"]), words(part.get("lead", ""), filled=False)
    after = [content, *words(part.get("end", "")), *words(part["after"])]
    if lead and part.get("lead_unless_space"):
        lead = [f"('' if said.text[-1:] in {SPACES} or ({content})[:1] in {SPACES} else {lead[0]})"]
        return write(before) + write([*(f"({content} and {text})" for text in lead), *after])
    return write([*before, *(f"({content} and {text})" for text in lead), *after])


def written(expressions: list[str]) -> str:
    """Return the Jinja statement that writes expressions one after another."""
    return f"{{{{- {' ~ '.join(expressions)} -}}}}" if expressions else ""


def gathered(expressions: list[str]) -> str:
    """Return the Jinja statement that adds expressions to `said.text`, which is written at the end."""
    return f"{{%- set said.text = {' ~ '.join(['said.text', *expressions])} -%}}" if expressions else ""


def either(condition: str, one: str, other: str) -> str:
    """Return Jinja that writes one statement where a condition holds, else the other; alike ones need none."""
    if one == other:
        return one
    return f"{{%- if {condition} -%}}{one}{{%- else -%}}{other}{{%- endif -%}}"


def role_of(template: dict, role: str, content: str, write: Write) -> str:
    """Return Jinja that writes a message of a role, wherever in a conversation it stands."""
    part = template[role]
    plain = message_of(part, content, write)
    if role == "assistant":
        asked_for = "loop.last and not add_generation_prompt"
        return either(asked_for, message_of(reply_part(template), content, write), plain)
    if not template.get("system_in_user"):
        return plain
    if role == "system":
        opened = part | {"before": template["user"]["before"] + part["before"]}
        return either("loop.index0 == 0 and " + FOLLOWED, message_of(opened, content, write), plain)
    joined = message_of(part | {"before": ""}, content, write)
    return either("loop.index0 == 1 and " + FOLLOWING, joined, plain)


def jinja_of(template: dict) -> str:
    """Return the Jinja source that renders conversations as `templates.render` does.

    Where a lead depends on what stands before it, the text is gathered first.
    """
    if any(template[role].get("lead_unless_space") for role in ROLES):
        lines = statements(template, gathered)
        lines = ["{%- set said = namespace(text='') -%}", *lines, written(["said.text"])]
    else:
        lines = statements(template, written)
    return "\n".join(filter(None, lines)) + "\n"


def statements(template: dict, write: Write) -> list[str]:
    """Return the Jinja statements of a template, whose text `write` writes."""
    default = template.get("default_system")
    between = write(words(template.get("between", "")))
    lines = [write(words(template["start"]))]
    if default:
        [said] = words(default, filled=False)
        lines.append("{%- if messages[0]['role'] != 'system' -%}")
        lines.append(f"{{%- set messages = [{{'role': 'system', 'content': {said}}}] + messages -%}}")
        lines.append("{%- endif -%}")
    lines.append("{%- for message in messages -%}")
    if between:
        joined = " and not (loop.index0 == 1 and " + FOLLOWING + " and message['role'] == 'user')"
        lines.append(f"{{%- if not loop.first{joined if template.get('system_in_user') else ''} -%}}")
        lines += [between, "{%- endif -%}"]
    for number, role in enumerate(ROLES):
        lines.append(f"{{%- {'elif' if number else 'if'} message['role'] == '{role}' -%}}")
        content = "(message['content'] | trim)" if strips_content(template, role) else "message['content']"
        lines.append(role_of(template, role, content, write))
    refusal = "'a message of the role ' ~ message['role'] ~ '; this template has system, user and assistant'"
    lines += ["{%- else -%}", f"{{{{- raise_exception({refusal}) -}}}}", "{%- endif -%}", "{%- endfor -%}"]
    lines.append("{%- if add_generation_prompt -%}")
    if between:
        lines += ["{%- if messages -%}", between, "{%- endif -%}"]
    return [*lines, write(words(reply_part(template)["before"])), "{%- endif -%}"]


def save_chat_template(folder: Path, template: dict) -> None:
    """Write a template into a model folder as the only one there is; other hard links to its files stay as they are.

    The model's own is left as its tokenizer has it.
    """
    if is_own(template):
        return
    for name in OTHERS:
        path = folder / name
        if path.is_dir():
            for member in path.iterdir():
                member.unlink()
            path.rmdir()
        path.unlink(missing_ok=True)
    config = folder / "tokenizer_config.json"
    if config.is_file() and "chat_template" in (known := read_json(config)):
        write_json(config, {name: value for name, value in known.items() if name != "chat_template"})
    with finished_file(folder / FILE) as temporary:
        temporary.write_text(jinja_of(template), encoding="utf-8")


def with_own_end(template: dict, tokenizer: Any, known: int | list[int] | None) -> int | list[int] | None:
    """Return the ids that end an answer: those a model knows, then the tokenizer's and the template's own, if new."""
    ids = [] if known is None else [known] if isinstance(known, int) else list(known)
    found = ends_of(reply_end(template, tokenizer), tokenizer)
    more = [identity for identity in found if identity not in ids]
    return [*ids, *more] if more else known
