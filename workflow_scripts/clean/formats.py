"""From one raw row to chat messages: every source format in a function of its own, all of them listed in FORMATS.

A format's function takes a raw row (a JSON object) and the cleaning settings, and returns what the row holds in our
words, its texts not yet checked; a row that is not of its format raises Unfit with the reason. Formats of which one row
holds several conversations are cut apart first, by PARTS. Plain formats become turns; ranked ones (`hh`, `rewarded`,
`alpaca_preferences`, `sharegpt_preferences`, `judged_pairs`) become a prompt with candidate replies, the preferred one first, and the rewards they came with.

The plain formats are the sources of the Tulu mixtures (Wang et al. 2023; Ivison et al. 2023). Not covered: Tulu's
random instruction templates, the few-shot prompts it makes of Super-NaturalInstructions, and files that are not JSON
(.xlsx, .parquet): write those as JSON Lines first.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from workflow_scripts.clean.reading import Fault, RawRow
from workflow_scripts.clean.schemas import ROLES, check_text

# The end-of-text tokens that sources write between the turns of a text.
END_OF_TEXT = re.compile(r"<\|endoftext\|>|</s>|<eos>")
HH_SPEAKERS = {"prompter": "user", "assistant": "assistant"}
# Unlike a speaker nobody knows, these make the whole conversation one that the source leaves out.
SHAREGPT_REFUSED = ("system", "bing")

Row = dict[str, Any]
Settings = dict[str, Any]


class Opened(NamedTuple):
    """What a raw row holds; `turns` are the prompt alone where there are `candidates`."""

    turns: list[Any]
    system: str | None = None
    style: str = "messages"  # how a turn names its speaker and its text: a key of schemas.ROLES
    candidates: list[Row] | None = None  # {"content", "rewards": {name: float}}
    meta: Row | None = None


class Unfit(Exception):
    """A row that is not what its format says; caught in `open_row`."""

    def __init__(self, reason: str, detail: str = "") -> None:
        super().__init__(reason)
        self.fault = Fault(reason, detail)


def field(row: Row, key: str) -> Any:
    """Return a field that must be there."""
    if key not in row:
        raise Unfit(f"missing field '{key}'")
    return row[key]


def text_field(row: Row, key: str) -> str:
    """Return a field that must be there and be text."""
    if not isinstance(text := field(row, key), str):
        raise Unfit("text is not a string", f"'{key}': {type(text).__name__}")
    return text


def list_field(row: Row, key: str) -> list[Any]:
    """Return a field that must be there and be a list."""
    if not isinstance(found := field(row, key), list):
        raise Unfit(f"'{key}' is not a list", type(found).__name__)
    return found


def object_field(row: Row, key: str) -> Row:
    """Return a field that must be there and be an object."""
    if not isinstance(found := field(row, key), dict):
        raise Unfit(f"'{key}' is not an object", type(found).__name__)
    return found


def user(text: Any) -> Row:
    """Return a user's turn."""
    return {"role": "user", "content": text}


def assistant(text: Any) -> Row:
    """Return an assistant's turn."""
    return {"role": "assistant", "content": text}


def ask(instruction: str, extra: str, settings: Settings) -> str:
    """Return an instruction with its input, if any, after an empty line and the heading of the settings."""
    if not extra.strip():
        return instruction
    heading = f"{settings['input_heading']}\n" if settings["input_heading"] else ""
    return f"{instruction}\n\n{heading}{extra}"


def read_instruction(row: Row, settings: Settings, extra_key: str = "input") -> tuple[Row, Row]:
    """Return the user's turn of an instruction row, and its two parts, which templates may set apart."""
    extra = row.get(extra_key) or ""
    if not isinstance(extra, str):
        raise Unfit("text is not a string", f"'{extra_key}': {type(extra).__name__}")
    instruction = text_field(row, "instruction")
    return user(ask(instruction, extra, settings)), {"instruction": instruction, "input": extra}


# --- rows of one conversation ----------------------------------------------------------------------------------------


def tutorbot(row: Row, settings: Settings) -> Opened:
    """Read {"conversations": [{"from": human|gpt, "value"}]}, the replies being structured."""
    return Opened(list_field(row, "conversations"), style="tutorbot")


def messages(row: Row, settings: Settings) -> Opened:
    """Read {"messages": [{"role": system|user|assistant, "content"}]}, the system message first if there is one."""
    turns = list_field(row, "messages")
    if not (turns and isinstance(turns[0], dict) and turns[0].get("role") == "system"):
        return Opened(turns)
    if fault := check_text(turns[0].get("content"), settings["max_chars"]):
        raise Unfit(*fault)
    return Opened(turns[1:], system=turns[0]["content"])


def prompt_completion(row: Row, settings: Settings) -> Opened:
    """Read {"prompt", "completion"}."""
    return Opened([user(field(row, "prompt")), assistant(field(row, "completion"))])


def alpaca(row: Row, settings: Settings) -> Opened:
    """Read {"instruction", "input", "output"}: Stanford, Code and GPT-4 Alpaca, Self-Instruct and their like."""
    output = field(row, "output")
    asked, meta = read_instruction(row, settings)
    return Opened([asked, assistant(output)], meta=meta)


def dolly(row: Row, settings: Settings) -> Opened:
    """Read {"instruction", "context", "response"}."""
    asked, meta = read_instruction(row, settings, "context")
    return Opened([asked, assistant(field(row, "response"))], meta=meta)


def flan(row: Row, settings: Settings) -> Opened:
    """Read {"inputs", "targets"}: FLAN v2 and its chain-of-thought part."""
    return Opened([user(field(row, "inputs")), assistant(field(row, "targets"))])


def super_ni(row: Row, settings: Settings) -> Opened:
    """Read {"definition", "inputs", "targets"}, an instance of Super-NaturalInstructions; see `super_ni_parts`."""
    given = {"instruction": field(row, "definition"), "input": field(row, "inputs")}
    asked, meta = read_instruction(given, settings)
    return Opened([asked, assistant(field(row, "targets"))], meta=meta)


def sharegpt(row: Row, settings: Settings) -> Opened:
    """Read {"conversations": [{"from": human|user|gpt|chatgpt, "value"}]}; other assistants' talks are left out."""
    turns = list_field(row, "conversations")
    for turn in turns:
        if isinstance(turn, dict) and turn.get("from") in SHAREGPT_REFUSED:
            raise Unfit("speaker the source leaves out", turn["from"])
    return Opened(turns, style="sharegpt")


def baize(row: Row, settings: Settings) -> Opened:
    """Read {"input": "… [|Human|] text [|AI|] text [|Human|] …"}; an empty turn of the human's is a mark of the end."""
    turns = []
    for part in text_field(row, "input").split("[|Human|]")[1:]:
        human, *replies = part.split("[|AI|]")
        if human.strip() or replies:
            turns += [user(human.strip()), *(assistant(reply.strip()) for reply in replies)]
    return Opened(turns)


def oasst1(row: Row, settings: Settings) -> Opened:
    """Read {"path": [{"role": prompter|assistant, "text"}]}, one path of a tree; see `oasst1_parts`."""
    path = row["path"]
    if path[-1].get("role") != "assistant":
        raise Unfit("path does not end on the assistant")
    return Opened(path, style="oasst1")


def lima(row: Row, settings: Settings) -> Opened:
    """Read {"conversations": [text, text, …]}, the user first."""
    texts = list_field(row, "conversations")
    return Opened([(user, assistant)[place % 2](text) for place, text in enumerate(texts)])


def wizardlm(row: Row, settings: Settings) -> Opened:
    """Read WizardLM's evolved instructions: {"instruction", "output"}, or its second version's "conversations"."""
    return sharegpt(row, settings) if "conversations" in row else alpaca(row, settings)


def open_orca(row: Row, settings: Settings) -> Opened:
    """Read {"system_prompt", "question", "response"}; the system prompt may be empty."""
    system = row.get("system_prompt") or ""
    if fault := system and check_text(system, settings["max_chars"]):
        raise Unfit(*fault)
    return Opened([user(field(row, "question")), assistant(field(row, "response"))], system=system or None)


def hard_coded(row: Row, settings: Settings) -> Opened:
    """Read {"Prompt", "Output"}, the columns of the source's table."""
    return Opened([user(field(row, "Prompt")), assistant(field(row, "Output"))])


def science(row: Row, settings: Settings) -> Opened:
    """Read {"input", "output", "dataset"}."""
    meta = {"dataset": plain(row["dataset"])} if isinstance(row.get("dataset"), str) else {}
    return Opened([user(field(row, "input")), assistant(field(row, "output"))], meta=meta)


# --- ranked rows: a prompt and candidate replies ---------------------------------------------------------------------


def hh(row: Row, settings: Settings) -> Opened:
    """Read a row of A-LoL's HH files: {"prefix": [[marked text, …], …], "suffix": [text, …], "reward": [logit, …]}.

    The prefix stands there once per candidate; the candidate at `sft_index` is the one people preferred. Rewards are
    the reward model's raw logits. With `reject_colon`, a row with a reply that breaks off at a colon is left out.
    """
    replies = list_field(row, "suffix")
    prefixes, rewards = list_field(row, "prefix"), list_field({"reward": [None]} | row, "reward")
    if len(replies) < 2:
        raise Unfit("fewer than 2 candidates", str(len(replies)))
    if len(prefixes) != len(replies) or prefixes.count(prefixes[0]) != len(prefixes):
        raise Unfit("candidates do not share one prompt")
    if not isinstance(prefixes[0], list) or not all(isinstance(text, str) for text in prefixes[0]):
        raise Unfit("text is not a string", "prefix")
    numbers = [finite(reward) for reward in rewards]
    if len(numbers) != len(replies):
        raise Unfit("not one reward per candidate", f"{len(numbers)} for {len(replies)}")
    if settings["reject_colon"] and any(isinstance(text, str) and text.endswith(":") for text in replies):
        raise Unfit("reply ends on a colon")
    first = row.get("sft_index", 0)
    if type(first) is not int or not 0 <= first < len(replies):
        raise Unfit("'sft_index' names no candidate", str(first))
    ranked = [
        {"content": text, "rewards": {"rm": number}} for text, number in zip(replies, numbers, strict=True)
    ]
    ranked.insert(0, ranked.pop(first))
    meta = plain(row["meta"]) if isinstance(row.get("meta"), dict) else {}
    return Opened(read_marks("".join(prefixes[0])), candidates=ranked, meta=meta)


def read_marks(text: str) -> list[Row]:
    """Return the turns of "<|prompter|>text<|assistant|>text…", without the empty one that a prompt ends with."""
    before, *pieces = re.split(r"<\|(prompter|assistant)\|>", text)
    if before.strip() or not pieces or pieces[-2] != "assistant" or pieces[-1].strip():
        raise Unfit("prompt is not marked as one")
    pairs = zip(pieces[:-2:2], pieces[1:-2:2], strict=True)
    return [{"role": HH_SPEAKERS[mark], "content": content} for mark, content in pairs]


def rewarded(row: Row, settings: Settings) -> Opened:
    """Read {"id", "prompt_or_input_text", "references", "meta_data", "reward_components"}: A-LoL's small tasks.

    An end-of-text token stands behind each turn of the text, whose last is the user's. Where the text opens with
    "Knowledge: …" and a turn follows, that is the system message and, without its heading, meta["knowledge"]. The
    reward named final_reward is left out: it is the sum of the others.
    """
    reply = text_field(row, "references")
    if match := re.search(rf"(?:{END_OF_TEXT.pattern})\s*$", reply):
        reply = reply[: match.start()]
    texts = [part for part in END_OF_TEXT.split(text_field(row, "prompt_or_input_text")) if part.strip()]
    meta: Row = {"meta_data": plain(row.get("meta_data"))}
    system = None
    if len(texts) > 1 and texts[0].startswith("Knowledge:"):
        system = texts.pop(0).strip()
        meta["knowledge"] = system.removeprefix("Knowledge:").strip()
    # Counted from the end: a talk that the other side opened still ends on the user.
    turns = [(user, assistant)[(len(texts) - place) % 2 == 0](text) for place, text in enumerate(texts)]
    components = row.get("reward_components")
    given = plain(components) if isinstance(components, dict) else {}
    rewards = {name: finite(value) for name, value in given.items() if name != "final_reward"}
    if not rewards:
        raise Unfit(NO_REWARD, "no reward_components")
    return Opened(turns, system=system, candidates=[{"content": reply, "rewards": rewards}], meta=meta)


def alpaca_preferences(row: Row, settings: Settings) -> Opened:
    """Read {"instruction", "input", "output", "chosen", "rejected"}, of which chosen or rejected equals output."""
    replies = [field(row, "chosen"), field(row, "rejected")]
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    asked, meta = read_instruction(row, settings)
    return Opened([asked], candidates=[{"content": text, "rewards": {}} for text in replies], meta=meta)


def sharegpt_preferences(row: Row, settings: Settings) -> Opened:
    """Read {"conversations": [{"from", "value"}], "chosen": {"from", "value"}, "rejected": …}, a system turn first or not."""
    turns = list_field(row, "conversations")
    replies = [text_field(object_field(row, name), "value") for name in ("chosen", "rejected")]
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    system = None
    if turns and isinstance(turns[0], dict) and turns[0].get("from") == "system":
        system, turns = turns[0].get("value") or None, turns[1:]
        if fault := system and check_text(system, settings["max_chars"]):
            raise Unfit(*fault)
    speakers = ROLES["sharegpt"][2]
    said = []
    for turn in turns:
        if not isinstance(turn, dict) or turn.get("from") not in speakers:
            raise Unfit("unknown role", str(turn.get("from") if isinstance(turn, dict) else turn)[:40])
        said.append({"role": speakers[turn["from"]], "content": text_field(turn, "value")})
    return Opened(said, system=system, candidates=[{"content": text, "rewards": {}} for text in replies])


def judged_pairs(row: Row, settings: Settings) -> Opened:
    """Read {"instruction", "input"?, "output_1", "output_2", "preference": 1|2}, AlpacaEval's stored judgements."""
    replies = [text_field(row, "output_1"), text_field(row, "output_2")]
    preference = field(row, "preference")
    if preference not in (1, 2):
        raise Unfit("no preference for either answer", str(preference))
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    if preference == 2:
        replies.reverse()
    asked, meta = read_instruction(row, settings)
    return Opened([asked], candidates=[{"content": text, "rewards": {}} for text in replies], meta=meta)


NO_REWARD = "reward is not a finite number"


def finite(value: Any) -> float:
    """Return a raw reward as a float; Unfit if it is missing, not a number, or not finite."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unfit(NO_REWARD, str(value) if isinstance(value, str | float) else type(value).__name__)
    return number


def plain(value: Any) -> Any:
    """Return what a source says about a row as strict JSON: null for NaN, no text that UTF-8 cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False)
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unfit("lone surrogate", f"at character {error.start} of the row's metadata") from None
    except RecursionError:
        raise Unfit("metadata is nested too deeply") from None
    return json.loads(text, parse_constant=lambda _: None)


# --- rows of several conversations -----------------------------------------------------------------------------------


def super_ni_parts(row: Row) -> list[Row]:
    """Return the instances of a task file of Super-NaturalInstructions, each with the task's definition.

    Of several right answers the first one is taken. A row that is an instance already is its own only part.
    """
    if "Instances" not in row:
        return [row]
    definition = field(row, "Definition")
    if isinstance(definition, list) and definition:
        definition = definition[0]
    parts = []
    for instance in list_field(row, "Instances"):
        given = instance if isinstance(instance, dict) else {}
        answers = given.get("output")
        parts.append({"definition": definition})
        if "input" in given:
            parts[-1]["inputs"] = given["input"]
        if answers:
            parts[-1]["targets"] = answers[0] if isinstance(answers, list) else answers
    return parts


def unnatural_instructions_parts(row: Row) -> list[Row]:
    """Return the instances of an Unnatural Instructions row as Alpaca rows, its constraints under the instruction."""
    parts = []
    for instance in list_field(row, "instances"):
        given = instance if isinstance(instance, dict) else {}
        instruction, constraints = text_field(row, "instruction"), given.get("constraints")
        if isinstance(constraints, str) and constraints.strip().lower() not in ("", "none", "none."):
            instruction = f"{instruction}\n{constraints}"
        shared = {key: given[key] for key in ("input", "output") if key in given}
        parts.append({"instruction": instruction} | shared)
    return parts


def oasst1_parts(row: Row) -> list[Row]:
    """Return every path from the root of an OpenAssistant tree to a leaf, depth first; deleted messages are no part."""
    paths, open_ends = [], [[object_field(row, "prompt")]]
    while open_ends:
        path = open_ends.pop()
        replies = path[-1].get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise Unfit("replies are not a list of messages")
        alive = [reply for reply in replies if not reply.get("deleted")]
        open_ends += [[*path, reply] for reply in reversed(alive)]
        if not alive:
            paths.append({"path": path})
    return paths


# --- all of them -----------------------------------------------------------------------------------------------------

FORMATS: dict[str, Callable[[Row, Settings], Opened]] = {
    "tutorbot": tutorbot,
    "tutorbot_pairs": tutorbot,
    "messages": messages,
    "prompt_completion": prompt_completion,
    "super_ni": super_ni,
    "cot": flan,
    "flan_v2": flan,
    "dolly": dolly,
    "self_instruct": alpaca,
    "unnatural_instructions": alpaca,
    "alpaca": alpaca,
    "sharegpt": sharegpt,
    "baize": baize,
    "oasst1": oasst1,
    "lima": lima,
    "wizardlm": wizardlm,
    "open_orca": open_orca,
    "hard_coded": hard_coded,
    "science": science,
    "hh": hh,
    "rewarded": rewarded,
    "alpaca_preferences": alpaca_preferences,
    "sharegpt_preferences": sharegpt_preferences,
    "judged_pairs": judged_pairs,
}
RANKED = ("hh", "rewarded", "alpaca_preferences", "sharegpt_preferences", "judged_pairs")
PARTS: dict[str, Callable[[Row], list[Row]]] = {
    "super_ni": super_ni_parts,
    "unnatural_instructions": unnatural_instructions_parts,
    "oasst1": oasst1_parts,
}


def split_row(row: RawRow, schema: str) -> list[RawRow]:
    """Return a raw row's conversations as rows of their own; of most formats a row is its own only part."""
    if row.fault or not isinstance(row.value, dict) or schema not in PARTS:
        return [row]
    try:
        parts = PARTS[schema](row.value)
    except Unfit as unfit:
        return [row._replace(fault=unfit.fault)]
    if not parts:
        return [row._replace(fault=Fault("no conversation in the row"))]
    return [row._replace(value=part) for part in parts]


def open_row(row: RawRow, settings: Settings) -> tuple[Opened, Fault | None]:
    """Return what a row holds, and what is wrong with the row as a whole."""
    if row.fault:
        return Opened([]), row.fault
    if not isinstance(row.value, dict):
        return Opened([]), Fault("row is not an object", type(row.value).__name__)
    try:
        return FORMATS[settings["schema"]](row.value, settings), None
    except Unfit as unfit:
        return Opened([]), unfit.fault
