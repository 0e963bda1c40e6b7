"""`Modelfile`, by which Ollama runs model.gguf: our template in the form it reads (Go's), ends, context, greedy.

Ollama puts the token that begins a text there itself, so the template leaves it out. Its language has no way to take
white space off a message's ends: where our template does, that is said.
"""

import json
from pathlib import Path
from typing import Any

from workflow_scripts.common.files import finished_file, read_json
from workflow_scripts.common.templates import filled, is_own, reply_part, strips_content
from workflow_scripts.export.found import Found
from workflow_scripts.plan.prompts import answered

FILE = "Modelfile"
LAST = "eq (len (slice $.Messages $at)) 1"
SPACED = 'or (eq (slice .Content 0 1) " ") (eq (slice .Content 0 1) "\\n") (eq (slice .Content 0 1) "\\t")'


def words(text: str) -> str:
    """Return a Go template that writes a text, whatever it holds."""
    return f"{{{{ {json.dumps(text, ensure_ascii=False)} }}}}" if text else ""


def message_of(part: dict, before: str, tokenizer: Any, open_end: bool = False) -> str:
    """Return what writes a message: before, its lead where it says something, and its end unless that stays open."""
    lead, text = part.get("lead", ""), words(before)
    if lead and part.get("lead_unless_space"):
        unspaced = (
            ""
            if before.endswith((" ", "\n", "\t"))
            else f"{{{{ if not ({SPACED}) }}}}{words(lead)}{{{{ end }}}}"
        )
        text += f"{{{{ if .Content }}}}{unspaced}{{{{ end }}}}" if unspaced else ""
    elif lead:
        text += f"{{{{ if .Content }}}}{words(lead)}{{{{ end }}}}"
    text += "{{ .Content }}"
    return text if open_end else text + words(filled(part.get("end", "") + part["after"], tokenizer))


def go_template(template: dict, tokenizer: Any) -> str:
    """Return a template as Ollama reads it, without the token that begins a text."""
    between = filled(template.get("between", ""), tokenizer)
    within = template.get("system_in_user", False)
    start = template["start"].removeprefix("{bos}")
    before = {role: filled(template[role]["before"], tokenizer) for role in ("system", "user", "assistant")}
    opening = filled(reply_part(template)["before"], tokenizer)
    lines = [words(filled(start, tokenizer))]
    default = template.get("default_system")
    if default:
        said = default.strip() if strips_content(template, "system") else default
        header = (before["user"] if within else "") + before["system"]
        part = template["system"]
        lead = part.get("lead", "")
        tail = filled(part.get("end", "") + part["after"], tokenizer)
        lines.append(f"{{{{ if not .System }}}}{words(header + lead + said + tail)}{{{{ end }}}}")
    lines.append('{{ $before := "" }}')
    if default:
        lines.append('{{ if not .System }}{{ $before = "system" }}{{ end }}')
    lines.append("{{ range $at, $message := .Messages }}")
    if between:
        joined = ' (not (and (eq $before "system") (eq .Role "user")))' if within else ""
        lines.append(f'{{{{ if and (ne $before ""){joined} }}}}{words(between)}{{{{ end }}}}')
    header = (before["user"] if within else "") + before["system"]
    lines.append(f'{{{{ if eq .Role "system" }}}}{message_of(template["system"], header, tokenizer)}')
    user = message_of(template["user"], before["user"], tokenizer)
    if within:
        joined_user = message_of(template["user"], "", tokenizer)
        user = f'{{{{ if eq $before "system" }}}}{joined_user}{{{{ else }}}}{user}{{{{ end }}}}'
    lines.append(f'{{{{ else if eq .Role "user" }}}}{user}')
    reply = message_of(reply_part(template), opening, tokenizer, open_end=True)
    past = message_of(template["assistant"], before["assistant"], tokenizer)
    lines.append(
        f'{{{{ else if eq .Role "assistant" }}}}{{{{ if {LAST} }}}}{reply}{{{{ else }}}}{past}{{{{ end }}}}'
    )
    lines.append("{{ end }}")
    lines.append(f'{{{{ if and ({LAST}) (ne .Role "assistant") }}}}{words(between + opening)}{{{{ end }}}}')
    lines.append("{{ $before = .Role }}{{ end }}")
    return "".join(lines)


def shared_stops(found: Found) -> list[str]:
    """Return the stop strings that all the study's prompt sets have; [] where none is written yet."""
    layout = found.plan.layout
    files = [Path(layout.prompts(name)) for name in answered(found.plan)]
    stops = [(read_json(file).get("sampling") or {}).get("stop", []) for file in files if file.is_file()]
    return [text for text in (stops[0] if stops else []) if all(text in each for each in stops)]


def stops_of(found: Found, tokenizer: Any, ends: list[int]) -> list[str]:
    """Return where answers stop: at the tokens that end them, and at what ends all the study's prompt sets."""
    return list(
        dict.fromkeys([*(tokenizer.convert_ids_to_tokens(end) for end in ends), *shared_stops(found)])
    )


def quoted(text: str) -> str:
    """Return a text as a Modelfile has it in one line."""
    return json.dumps(text, ensure_ascii=False)


def modelfile(template: dict, tokenizer: Any, stops: list[str], context: int) -> str:
    """Return the text of a Modelfile."""
    lines = ["FROM ./model.gguf"]
    if not is_own(template):
        lines.append(f'TEMPLATE """{go_template(template, tokenizer)}"""')
    lines += [f"PARAMETER stop {quoted(text)}" for text in stops]
    lines += [f"PARAMETER num_ctx {context}", "PARAMETER temperature 0", "PARAMETER repeat_penalty 1"]
    return "\n".join(lines) + "\n"


def write_modelfile(found: Found, folder: Path, tokenizer: Any, ends: list[int]) -> list[str]:
    """Write a Modelfile beside model.gguf; return what is to be said of it."""
    template, stops = found.template(), stops_of(found, tokenizer, ends)
    context = found.plan.study.models[found.plan.policies[found.policy].model].context
    with finished_file(folder / FILE) as temporary:
        temporary.write_text(modelfile(template, tokenizer, stops, context), encoding="utf-8")
    if is_own(template):
        return [
            "the model's own chat template is in model.gguf; Ollama takes it where it knows it: look at what it asks"
        ]
    if any(strips_content(template, role) for role in ("system", "user", "assistant")):
        return ["Ollama does not take white space off the ends of messages, as the template does"]
    return []
