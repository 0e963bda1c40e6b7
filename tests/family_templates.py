"""Chat templates that write what those of published models write, in our words; and ones that do what is refused."""

import copy

from tests.texts import TOKENIZERS

# By the name of the template that comes with Plumbline for the family.
FAMILIES = {
    "llama3": """
{%- for m in messages %}
    {%- if loop.first %}{{ bos_token }}{% endif %}
    {{- '<|start_header_id|>' ~ m.role ~ '<|end_header_id|>\n\n' ~ m.content | trim ~ '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}""",
    "qwen": """
{%- if messages[0].role != 'system' %}
    {{- '<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n' }}
{%- endif %}
{%- for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ m.content ~ '<|im_end|>\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}""",
    "gemma": """
{{- bos_token }}
{%- set first, rest = '', messages %}
{%- if messages[0].role == 'system' %}{% set first, rest = messages[0].content ~ '\n\n', messages[1:] %}{% endif %}
{%- for m in rest %}
    {%- if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles must alternate') }}{% endif %}
    {{- '<start_of_turn>' ~ ('model' if m.role == 'assistant' else m.role) ~ '\n' ~ (first if loop.first else '') }}
    {{- m.content | trim ~ '<end_of_turn>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<start_of_turn>model\n' }}{% endif %}""",
    "mistral": """
{{- bos_token }}
{%- set first, rest = '', messages %}
{%- if messages[0].role == 'system' %}{% set first, rest = messages[0].content ~ '\n\n', messages[1:] %}{% endif %}
{%- for m in rest %}
    {%- set is_last = loop.last or (loop.index0 == rest | length - 2 and rest[-1].role == 'assistant') %}
    {%- if m.role == 'user' %}{{ '[INST] ' ~ (first if is_last else '') ~ m.content ~ '[/INST]' }}
    {%- elif m.role == 'assistant' %}{{ ' ' ~ m.content | trim ~ eos_token }}
    {%- else %}{{ raise_exception('only user and assistant roles') }}{% endif %}
{%- endfor %}""",
    "llama2": """
{%- set first, rest = '', messages %}
{%- if messages[0].role == 'system' %}
    {%- set first, rest = '<<SYS>>\n' ~ messages[0].content | trim ~ '\n<</SYS>>\n\n', messages[1:] %}
{%- endif %}
{%- for m in rest %}
    {%- set before = bos_token ~ '[INST] ' ~ (first if loop.first else '') %}
    {%- if m.role == 'user' %}{{ before ~ m.content | trim ~ ' [/INST]' }}
    {%- else %}{{ ' ' ~ m.content | trim ~ ' ' ~ eos_token }}{% endif %}
{%- endfor %}""",
    "zephyr": """
{{- bos_token }}
{%- for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content | trim ~ eos_token ~ '\n' }}{% endfor %}
{%- if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}""",
}
CHATML = "{% for m in messages %}{{ '<|im_start|>' ~ m.role ~ '\n' ~ SAID ~ '<|im_end|>\n' }}{% endfor %}"
CHATML += "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"


def chatml(said: str = "m.content") -> str:
    """Return ChatML that writes of a message what a Jinja expression says."""
    return CHATML.replace("SAID", said)


THINKING = chatml(
    "('<think>\n\n</think>\n\n' ~ m.content if m.role == 'assistant' and loop.last else m.content)"
)
FORGETTING = chatml("m.content.split('</think>')[-1]")
DATED = "{{ strftime_now('%d %B %Y') ~ '\n' }}" + chatml()
CLOSING = chatml().replace(
    "{% if add", "{% if not add_generation_prompt %}{{ eos_token }}{% endif %}{% if add"
)
ENDLESS = chatml().replace("<|im_end|>", "")


def speaking(source: str, kind: str = "gpt2"):
    """Return a tokenizer of a kind (`tests.texts`) that brings a chat template along."""
    tokenizer = copy.deepcopy(TOKENIZERS[kind])
    tokenizer.chat_template = source
    return tokenizer
