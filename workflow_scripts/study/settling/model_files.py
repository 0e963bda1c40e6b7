"""What a model's files say of it: how long a text it reads, how it is spoken to, how many weights it has.

Small files alone are read, and the heads of large ones. What is found may come from a folder of this machine, or from
the small files of a hub's repository.
"""

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.own_template import Unspeakable, Voice, end_of, shortcomings
from workflow_scripts.study.memory import weights_in
from workflow_scripts.study.settling.gguf_header import Header

TOKENIZERS = re.compile(
    r"tokenizer.*|special_tokens_map\.json|added_tokens\.json|vocab\.(json|txt)|merges\.txt|.*\.(model|tiktoken)"
    r"|chat_template\.(jinja|json)"
)
ESSENTIAL = re.compile(
    r"tokenizer\.json|vocab\.(json|txt)|.*\.(model|tiktoken)"
)  # one of them makes a tokenizer
CONFIGS = ("config.json", "generation_config.json")
ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
INDEX = "model.safetensors.index.json"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".h5", ".msgpack")
SMALL = (
    *CONFIGS,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "tokenizer.json",
    "chat_template.jinja",
)
SMALL += ("chat_template.json", "adapter_config.json")
# How a configuration calls the most tokens that its model reads.
POSITIONS = (
    "max_position_embeddings",
    "n_positions",
    "n_ctx",
    "max_sequence_length",
    "max_seq_len",
    "seq_length",
)
SANE = range(16, 10**8)  # of a tokenizer's model_max_length; some say 10^30, which is none
CONTROL_KINDS = (3, 4)  # of a GGUF file's tokens: control tokens, and what users added


class Facts(NamedTuple):
    """What files say of a model; None and "" where they do not.

    `added` are its tokenizer's added tokens, `named` its special tokens by what they are, `ends` the texts of those at
    which the model itself says that a text ends; `base` is what an adapter says that it adapts.
    """

    architecture: str
    context: int | None
    parameters: int | None
    dtype: str
    chat_template: str | None
    added: list[str]
    named: dict[str, str]
    ends: list[str]
    base: str | None = None

    def voice(self) -> Voice | None:
        """Return the chat template as it is rendered, None where there is none."""
        if self.chat_template is None:
            return None
        return Voice(self.chat_template, tuple(sorted(self.named.items())), frozenset(self.added))


def weights_among(names: Iterable[str]) -> list[str]:
    """Return those of a folder's files that hold a model's weights, each once: one file, shards, or what there is."""
    found = sorted(name for name in names if name.endswith(".safetensors") and "/" not in name)
    if "model.safetensors" in found:
        return ["model.safetensors"]
    shards = [name for name in found if SHARD.fullmatch(name)]
    return shards or [name for name in found if name not in ADAPTER and not name.startswith("consolidated")]


def files_of_model(names: Iterable[str], where: str, code: bool = False) -> list[str]:
    """Return those of a folder's files that make a model; PlumblineError, with what to do, where they do not.

    `code`: Python modules belong to it, too.
    """
    names = sorted(name for name in names if "/" not in name)
    weights = weights_among(names)
    if "config.json" not in names:
        raise PlumblineError(
            f"{where} has no config.json, so it is no model that transformers saved: give the folder that has it "
            f"beside the weights (there is: {told(names)})"
        )
    if not weights:
        pickled = [name for name in names if name.endswith(PICKLES) and not name.startswith("training_args")]
        if pickled:
            raise PlumblineError(
                f"{where} has its weights as pickles alone ({told(pickled)}), which may run code as they are loaded: "
                "load the model where you trust it and save it again by save_pretrained, which writes safetensors"
            )
        raise PlumblineError(
            f"{where} has no *.safetensors: its weights are missing (there is: {told(names)})"
        )
    tokenizer = tokenizer_files(names)
    if not any(ESSENTIAL.fullmatch(name) for name in tokenizer):
        raise PlumblineError(
            f"{where} has no tokenizer (no tokenizer.json, *.model or vocabulary): save the model's beside it by "
            "tokenizer.save_pretrained"
        )
    index = [INDEX] if INDEX in names and weights != ["model.safetensors"] else []
    modules = [name for name in names if code and name.endswith(".py")]
    return [*(name for name in CONFIGS if name in names), *weights, *index, *tokenizer, *modules]


def tokenizer_files(names: Iterable[str]) -> list[str]:
    """Return those of some files that make a tokenizer."""
    return sorted(name for name in names if TOKENIZERS.fullmatch(name))


def told(names: list[str]) -> str:
    """Return names in a few words."""
    return f"{', '.join(names[:6])}{', …' if len(names) > 6 else ''}" or "nothing"


def facts_of(files: dict[str, Path], where: str) -> Facts:
    """Return what a model's files, {name: path}, say of it; those that are not there say nothing."""
    read = {name: json_in(files[name], where) for name in SMALL if name in files and name.endswith(".json")}
    config, tokenizer = read.get("config.json", {}), read.get("tokenizer_config.json", {})
    own = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    added = added_tokens(read)
    architectures = config.get("architectures") or own.get("architectures") or []
    counts = [weights_in(path) for name, path in files.items() if name in weights_among(files)]
    named = named_tokens(tokenizer, read.get("special_tokens_map.json", {}))
    return Facts(
        str(next(iter(architectures), config.get("model_type", ""))),
        context_in(own, tokenizer),
        sum(count for count in counts if count) if counts and None not in counts else None,
        str(own.get("dtype") or own.get("torch_dtype") or config.get("dtype") or ""),
        chat_template_in(files, read),
        sorted(set(added.values())),
        named,
        ends_in(read.get("generation_config.json", {}), own, added, named),
        read.get("adapter_config.json", {}).get("base_model_name_or_path"),
    )


def json_in(path: Path, where: str) -> dict[str, Any]:
    """Return the object in a file; PlumblineError where it holds none."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise PlumblineError(f"{where}: {path.name} cannot be read ({error}); save the model again") from None
    if not isinstance(found, dict):
        raise PlumblineError(f"{where}: {path.name} holds no object; save the model again")
    return found


def context_in(config: dict[str, Any], tokenizer: dict[str, Any]) -> int | None:
    """Return how many tokens a model reads: what its configuration says, or its tokenizer where that is less."""
    said = [config[key] for key in POSITIONS if isinstance(config.get(key), int) and config[key] > 0]
    longest = tokenizer.get("model_max_length")
    if isinstance(longest, int | float) and longest in SANE:
        said.append(int(longest))
    return min(said, default=None)


def text_of(token: Any) -> str | None:
    """Return how a token is spelled, which files say plainly or in an object."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else None


def added_tokens(read: dict[str, dict[str, Any]]) -> dict[int, str]:
    """Return the added tokens of a tokenizer by id."""
    found: dict[int, str] = {}
    for token in read.get("tokenizer.json", {}).get("added_tokens") or []:
        if isinstance(token, dict) and isinstance(token.get("id"), int) and (text := text_of(token)):
            found[token["id"]] = text
    decoder = read.get("tokenizer_config.json", {}).get("added_tokens_decoder")
    for identity, token in (decoder if isinstance(decoder, dict) else {}).items():
        if identity.isdigit() and (text := text_of(token)):
            found[int(identity)] = text
    return found


def named_tokens(*told: dict[str, Any]) -> dict[str, str]:
    """Return a tokenizer's special tokens by what they are: bos_token, eos_token …"""
    found = {
        name: text_of(token)
        for said in reversed(told)
        for name, token in said.items()
        if name.endswith("_token")
    }
    return {name: text for name, text in found.items() if text is not None}


def ends_in(
    generation: dict[str, Any], config: dict[str, Any], added: dict[int, str], named: dict[str, str]
) -> list[str]:
    """Return the texts of the tokens at which a model says that a text ends, or #id where their text is not known."""
    ids = generation.get("eos_token_id", config.get("eos_token_id"))
    ids = ids if isinstance(ids, list) else [] if ids is None else [ids]
    ends = [added.get(identity, f"#{identity}") for identity in ids]
    return ends or [named[name] for name in ("eos_token",) if name in named]


def chat_template_in(files: dict[str, Path], read: dict[str, dict[str, Any]]) -> str | None:
    """Return the chat template that a tokenizer's files bring along, as the library would choose it."""
    if "chat_template.jinja" in files:
        return files["chat_template.jinja"].read_text(encoding="utf-8", errors="replace")
    for name in ("chat_template.json", "tokenizer_config.json"):
        found = read.get(name, {}).get("chat_template")
        if isinstance(found, list):  # several, by name
            by_name = {each.get("name"): each.get("template") for each in found if isinstance(each, dict)}
            found = by_name.get("default")
        if isinstance(found, str):
            return found
    return None


def gguf_facts(header: Header) -> Facts:
    """Return what the head of a GGUF file says of its model."""
    said = header.said
    kind = said.get("general.architecture", "")
    tokens, kinds = said.get("tokenizer.ggml.tokens") or [], said.get("tokenizer.ggml.token_type") or []
    added = [text for text, of in zip(tokens, kinds, strict=False) if of in CONTROL_KINDS]

    def token(name: str) -> str | None:
        place = said.get(f"tokenizer.ggml.{name}_token_id")
        return tokens[place] if isinstance(place, int) and place < len(tokens) else None

    named = {f"{name}_token": text for name in ("bos", "eos") if (text := token(name))}
    template = said.get("tokenizer.chat_template")
    return Facts(
        kind,
        said.get(f"{kind}.context_length"),
        header.parameters,
        "",
        template if isinstance(template, str) else None,
        sorted({*added, *named.values()}),
        named,
        [named["eos_token"]] if "eos_token" in named else [],
    )


def heard(facts: Facts) -> tuple[str, list[str]]:
    """Return the end of a reply in a model's own chat template, and what this does not write; Unspeakable for none."""
    voice = facts.voice()
    if voice is None:
        raise Unspeakable("the model has no chat template")
    return end_of(voice).strip(), shortcomings(voice)
