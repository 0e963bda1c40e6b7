"""From one raw row to chat messages: every source format in a function of its own, all of them listed in FORMATS.

A format's function takes the fields of a raw row and the cleaning settings, and returns what the row holds in our
words, its texts not yet checked; a row that is not of its format raises Unfit with the reason. Formats of which one row
holds several conversations are cut apart first, by PARTS. Plain formats become turns; ranked ones (RANKED) become a
prompt with candidate replies, the preferred one first, and the rewards they came with. What holds for all formats is in
`open_row`: the system message in front, calls of tools, labels that say an answer is bad, and which keys nobody read.

The plain formats are the sources of the Tulu mixtures (Wang et al. 2023; Ivison et al. 2023), and read beside them what
others write in the same columns: `system` and `history`. Not covered: Tulu's random instruction templates, and the
few-shot prompts it makes of Super-NaturalInstructions.
"""

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from workflow_scripts.clean.fields import Fields, Unfit, holds, shown
from workflow_scripts.clean.reading import Fault, RawRow
from workflow_scripts.clean.turns import (
    ROLES,
    SYSTEM_ROLES,
    Message,
    joined_text,
    read_turn,
    split_system,
    system_text,
)

# The end-of-text tokens that sources write between the turns of a text.
END_OF_TEXT = re.compile(r"<\|endoftext\|>|</s>|<eos>")
HH_SPEAKERS = {"prompter": "user", "assistant": "assistant"}
TRANSCRIPT_SPEAKERS = {"Human": "user", "Assistant": "assistant"}
LABELS = ("label", "kto_tag")  # what says of an answer without a rival whether it is good

Row = dict[str, Any]
Settings = dict[str, Any]


class Opened(NamedTuple):
    """What a raw row holds; `turns` are the prompt alone where there are `candidates`."""

    turns: list[Any]
    system: str | None = None
    style: str = "messages"  # how a turn names its speaker and its text: a key of turns.ROLES
    candidates: list[Row] | None = None  # {"content", "rewards": {name: float}}
    meta: Row | None = None
    unread: frozenset[str] = frozenset()  # keys that say something and were not read


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


def read_instruction(row: Fields, settings: Settings, extra_key: str = "input") -> tuple[Row, Row]:
    """Return the user's turn of an instruction row, and its two parts, which templates may set apart."""
    extra, instruction = row.optional_text(extra_key), row.text("instruction")
    return user(ask(instruction, extra, settings)), {"instruction": instruction, "input": extra}


def read_history(row: Fields) -> list[Row]:
    """Return the turns of {"history": [[asked, answered], …]}, the exchanges before an instruction."""
    if row.get("history") is None:
        return []
    turns = []
    for exchange in row.list("history"):
        if not isinstance(exchange, list) or len(exchange) != 2:
            raise Unfit("'history' is not made of pairs", type(exchange).__name__)
        turns += [user(exchange[0]), assistant(exchange[1])]
    return turns


# --- rows of one conversation ----------------------------------------------------------------------------------------


def tutorbot(row: Fields, settings: Settings) -> Opened:
    """Read {"conversations": [{"from": human|gpt, "value"}]}, the replies being structured."""
    return Opened(row.list("conversations"), style="tutorbot")


def messages(row: Fields, settings: Settings) -> Opened:
    """Read {"messages": [{"role": system|user|assistant, "content"}]}, the system message first if there is one."""
    return Opened(row.list("messages"), system=row.get("system"))


def prompt_completion(row: Fields, settings: Settings) -> Opened:
    """Read {"prompt", "completion"}, each a text or a list of messages."""
    prompt, completion = row.raw("prompt"), row.raw("completion")
    before = prompt if isinstance(prompt, list) else [user(prompt)]
    return Opened(
        [*before, *(completion if isinstance(completion, list) else [assistant(completion)])],
        system=row.get("system"),
    )


def alpaca(row: Fields, settings: Settings) -> Opened:
    """Read {"instruction", "input"?, "output", "system"?, "history"?}: all kinds of Alpaca, Self-Instruct and their like."""
    output = row.raw("output")
    asked, meta = read_instruction(row, settings)
    return Opened([*read_history(row), asked, assistant(output)], system=row.get("system"), meta=meta)


def dolly(row: Fields, settings: Settings) -> Opened:
    """Read {"instruction", "context", "response"}."""
    asked, meta = read_instruction(row, settings, "context")
    return Opened([asked, assistant(row.raw("response"))], meta=meta)


def flan(row: Fields, settings: Settings) -> Opened:
    """Read {"inputs", "targets"}: FLAN v2 and its chain-of-thought part."""
    return Opened([user(row.raw("inputs")), assistant(row.raw("targets"))])


def super_ni(row: Fields, settings: Settings) -> Opened:
    """Read {"definition", "inputs", "targets"}, an instance of Super-NaturalInstructions; see `super_ni_parts`."""
    instruction, extra = row.text("definition"), row.text("inputs")
    return Opened(
        [user(ask(instruction, extra, settings)), assistant(row.raw("targets"))],
        meta={"instruction": instruction, "input": extra},
    )


def sharegpt(row: Fields, settings: Settings) -> Opened:
    """Read {"conversations": [{"from": system|human|user|gpt|chatgpt, "value"}], "system"?}.

    The system turn comes first if there is one. Talks with another assistant, or with a system turn further on, are
    left out whole, as the source does.
    """
    turns = row.list("conversations")
    for place, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if speaker == "bing" or (place and speaker in SYSTEM_ROLES and holds(turn.get("value"))):
            raise Unfit("speaker the source leaves out", speaker)
    return Opened(turns, system=row.get("system"), style="sharegpt")


def baize(row: Fields, settings: Settings) -> Opened:
    """Read {"input": "… [|Human|] text [|AI|] text [|Human|] …"}; an empty turn of the human's is a mark of the end."""
    turns = []
    for part in row.text("input").split("[|Human|]")[1:]:
        human, *replies = part.split("[|AI|]")
        if human.strip() or replies:
            turns += [user(human.strip()), *(assistant(reply.strip()) for reply in replies)]
    return Opened(turns)


def oasst1(row: Fields, settings: Settings) -> Opened:
    """Read {"path": [{"role": prompter|assistant, "text"}]}, one path of a tree; see `oasst1_parts`."""
    path = row.list("path")
    if path[-1].get("role") != "assistant":
        raise Unfit("path does not end on the assistant")
    return Opened(path, style="oasst1")


def lima(row: Fields, settings: Settings) -> Opened:
    """Read {"conversations": [text, text, …]}, the user first."""
    texts = row.list("conversations")
    return Opened([(user, assistant)[place % 2](text) for place, text in enumerate(texts)])


def wizardlm(row: Fields, settings: Settings) -> Opened:
    """Read WizardLM's evolved instructions: {"instruction", "output"}, or its second version's "conversations"."""
    read = sharegpt if row.which("conversations", "instruction") == "conversations" else alpaca
    return read(row, settings)


def open_orca(row: Fields, settings: Settings) -> Opened:
    """Read {"system_prompt", "question", "response"}; the system prompt may be empty."""
    turns = [user(row.raw("question")), assistant(row.raw("response"))]
    return Opened(turns, system=row.get("system_prompt"))


def hard_coded(row: Fields, settings: Settings) -> Opened:
    """Read {"Prompt", "Output"}, the columns of the source's table."""
    return Opened([user(row.raw("Prompt")), assistant(row.raw("Output"))])


def science(row: Fields, settings: Settings) -> Opened:
    """Read {"input", "output", "dataset"}."""
    source = row.of_type("dataset", str)
    meta = {"dataset": source} if source else {}
    return Opened([user(row.raw("input")), assistant(row.raw("output"))], meta=meta)


# --- ranked rows: a prompt and candidate replies ---------------------------------------------------------------------


def hh(row: Fields, settings: Settings) -> Opened:
    """Read a row of A-LoL's HH files: {"prefix": [[marked text, …], …], "suffix": [text, …], "reward": [logit, …]}.

    The prefix stands there once per candidate; the candidate at `sft_index` is the one people preferred. Rewards are
    the reward model's raw logits. With `reject_colon`, a row with a reply that breaks off at a colon is left out.
    """
    replies, prefixes = row.list("suffix"), row.list("prefix")
    numbers = [finite(reward) for reward in (row.list("reward") if "reward" in row else [None])]
    if len(replies) < 2:
        raise Unfit("fewer than 2 candidates", str(len(replies)))
    if not all(isinstance(prefix, list) for prefix in prefixes):
        raise Unfit("text is not a string", "prefix")
    if not all(isinstance(text, str) for prefix in prefixes for text in prefix):
        raise Unfit("text is not a string", "prefix")
    if len(prefixes) != len(replies) or prefixes.count(prefixes[0]) != len(prefixes):
        raise Unfit("candidates do not share one prompt")
    if len(numbers) != len(replies):
        raise Unfit("not one reward per candidate", f"{len(numbers)} for {len(replies)}")
    if settings["reject_colon"] and any(isinstance(text, str) and text.endswith(":") for text in replies):
        raise Unfit("reply ends on a colon")
    first = row.raw("sft_index") if "sft_index" in row else 0
    if type(first) is not int or not 0 <= first < len(replies):
        raise Unfit("'sft_index' names no candidate", shown(first))
    ranked = [
        {"content": text, "rewards": {"rm": number}} for text, number in zip(replies, numbers, strict=True)
    ]
    ranked.insert(0, ranked.pop(first))
    meta = row.of_type("meta", dict) or {}
    return Opened(read_marks("".join(prefixes[0])), candidates=ranked, meta=meta)


def read_marks(text: str) -> list[Row]:
    """Return the turns of "<|prompter|>text<|assistant|>text…", without the empty one that a prompt ends with."""
    before, *pieces = re.split(r"<\|(prompter|assistant)\|>", text)
    if before.strip() or not pieces or pieces[-2] != "assistant" or pieces[-1].strip():
        raise Unfit("prompt is not marked as one")
    pairs = zip(pieces[:-2:2], pieces[1:-2:2], strict=True)
    return [{"role": HH_SPEAKERS[mark], "content": content} for mark, content in pairs]


def rewarded(row: Fields, settings: Settings) -> Opened:
    """Read {"id", "prompt_or_input_text", "references", "meta_data", "reward_components"}: A-LoL's small tasks.

    An end-of-text token stands behind each turn of the text, whose last is the user's. Where the text opens with
    "Knowledge: …" and a turn follows, that is the system message and, without its heading, meta["knowledge"]. The
    reward named final_reward is left out: it is the sum of the others.
    """
    reply = row.text("references")
    if match := re.search(rf"(?:{END_OF_TEXT.pattern})\s*$", reply):
        reply = reply[: match.start()]
    texts = [part for part in END_OF_TEXT.split(row.text("prompt_or_input_text")) if part.strip()]
    meta: Row = {"meta_data": row.raw("meta_data") if "meta_data" in row else None}
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


def preferences(row: Fields, settings: Settings) -> Opened:
    """Read {"chosen", "rejected"} of every published shape, which the columns tell.

    The prompt: a text or messages under `prompt`; Alpaca's instruction, input, history and system; messages under
    `messages` or `conversations`; or none of these, where chosen and rejected are whole dialogues. A reply: a text, a
    message, a list of one message, or the whole dialogue, as messages or as a text "\n\nHuman: …\n\nAssistant: …". Two
    dialogues must differ in nothing but their last message. Their `score_chosen` and `score_rejected` are the reward
    "score".
    """
    asked, meta = read_prompt(row, settings)
    said = [row.raw(name) for name in ("chosen", "rejected")]
    if len({type(side) for side in said}) > 1:
        raise Unfit(
            "chosen and rejected are written differently", " and ".join(type(side).__name__ for side in said)
        )
    said = [[side] if isinstance(side, dict) else side for side in said]
    told = [read_transcript(side) for side in said]
    if all(told):
        said = told
    system = row.get("system")
    if isinstance(said[0], str):
        replies = said
        if not asked:
            raise Unfit("no prompt", "nor dialogues in chosen and rejected")
    elif isinstance(said[0], list):
        (own, *first), (other, *second) = (read_dialogue(side, row, settings["max_chars"]) for side in said)
        if not first or not second or (first[-1]["role"], second[-1]["role"]) != ("assistant", "assistant"):
            raise Unfit("chosen and rejected do not end on the assistant")
        if own != other or first[:-1] != second[:-1]:
            raise Unfit("chosen and rejected do not share one prompt")
        replies = [side[-1]["content"] for side in (first, second)]
        if first[:-1]:
            in_front, *beside = read_dialogue(asked, row, settings["max_chars"])
            check_prompt(beside, [*first, second[-1]])
            asked, system = first[:-1], same_system(system, in_front)
        elif not asked:
            raise Unfit("no prompt", "nor dialogues in chosen and rejected")
        system = same_system(system, own)
    else:
        raise Unfit("text is not a string", f"'chosen': {type(said[0]).__name__}")
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    candidates = [
        {"content": text, "rewards": rewards} for text, rewards in zip(replies, read_scores(row), strict=True)
    ]
    return Opened(asked, system=system, style=style_of(asked), candidates=candidates, meta=meta)


def read_prompt(row: Fields, settings: Settings) -> tuple[list[Any], Row | None]:
    """Return the raw turns of a preference row's prompt, none if it has none, and what the row says about it."""
    key = row.which("instruction", "conversations", "messages", "prompt")
    if key == "instruction":
        row.get("output")  # one of the two replies
        asked, meta = read_instruction(row, settings)
        return [*read_history(row), asked], meta
    if key in ("conversations", "messages"):
        return (row.list(key) if row.get(key) is not None else []), None
    prompt = row.get("prompt")
    if prompt is None or isinstance(prompt, list):
        return prompt or [], None
    turns = read_transcript(text := row.text("prompt"))
    if turns and turns[-1]["role"] == "assistant" and not turns[-1]["content"]:
        turns.pop()  # the mark behind which the reply begins
    return turns or [user(text)], None


def read_transcript(text: Any) -> list[Row] | None:
    """Return the turns of "\n\nHuman: text\n\nAssistant: text…", or None for anything else."""
    if not isinstance(text, str):
        return None
    before, *pieces = re.split(r"\n\n(Human|Assistant):", "\n\n" + text.lstrip("\n"))
    if before.strip() or not pieces or pieces[0] != "Human":
        return None
    return [
        {"role": TRANSCRIPT_SPEAKERS[speaker], "content": said.strip()}
        for speaker, said in zip(pieces[::2], pieces[1::2], strict=True)
    ]


def read_dialogue(turns: list[Any], row: Fields, max_chars: int) -> list[Any]:
    """Return the system message of a dialogue, or None, and then its messages, whose every text is one."""
    style = style_of(turns)
    system, turns, missed = split_system([joined(turn, style) for turn in turns], style, max_chars)
    row.missed |= missed
    found = [read_said(turn, style, row) for turn in turns[:-1]]
    return [system, *found, *(read_said(turn, style, row, learned=True) for turn in turns[-1:])]


def read_said(turn: Any, style: str, row: Fields, learned: bool = False) -> Message:
    """Return a turn as a message; Unfit if its text is none, or if it is to be `learned` and says that it is not."""
    message, missed = read_turn(turn, style)
    if learned and message["role"] == "assistant" and not message.get("learn", True):
        raise Unfit("no turn to learn from")
    row.missed |= missed
    if not isinstance(message["content"], str):
        raise Unfit("text is not a string", type(message["content"]).__name__)
    return {"role": message["role"], "content": message["content"]}


def check_prompt(asked: list[Message], said: list[Message]) -> None:
    """Raise Unfit if what stands beside two dialogues, a prompt or one of them once more, says what neither says."""
    known = {"", *(message["content"].strip() for message in said)}
    if any(message["content"].strip() not in known for message in asked):
        raise Unfit("prompt is not that of chosen and rejected")


def style_of(turns: list[Any]) -> str:
    """Return how turns name speaker and text."""
    return "sharegpt" if turns and isinstance(turns[0], dict) and "from" in turns[0] else "messages"


def read_scores(row: Fields) -> list[Row]:
    """Return the rewards that chosen and rejected came with: {"score": number}, or none."""
    for names in (("score_chosen", "score_rejected"), ("chosen_score", "rejected_score")):
        scores = [row.get(name) for name in names]
        if scores != [None, None]:
            return [{"score": finite(score)} for score in scores]
    return [{}, {}]


def judged_pairs(row: Fields, settings: Settings) -> Opened:
    """Read {"instruction", "input"?, "output_1", "output_2", "preference": 1|2}, AlpacaEval's stored judgements."""
    replies = [row.text("output_1"), row.text("output_2")]
    preference = row.raw("preference")
    if isinstance(preference, bool) or preference not in (1, 2):
        raise Unfit("no preference for either answer", shown(preference))
    if replies[0] == replies[1]:
        raise Unfit("chosen equals rejected")
    if preference == 2:
        replies.reverse()
    asked, meta = read_instruction(row, settings)
    return Opened([asked], candidates=[{"content": text, "rewards": {}} for text in replies], meta=meta)


def labelled(row: Fields, settings: Settings) -> Opened:
    """Read a row of prompt and completion, messages, conversations or Alpaca's columns, and whether its reply is good.

    That is true or false under `label` or `kto_tag` (Ethayarajh et al. 2024). It becomes the reward "label", 1 or 0, and
    the candidate's rank, 0 or 1: answers of several rows to one prompt are ranked together when pairs are made.
    """
    label = label_of(row)
    if label is None:
        given = [row.value[key] for key in LABELS if holds(row.value.get(key))]
        if given:
            raise Unfit("label is neither true nor false", shown(given[0]))
        raise Unfit("no label", f"true or false under {' or '.join(LABELS)}")
    shapes = {
        "completion": prompt_completion,
        "messages": messages,
        "conversations": sharegpt,
        "instruction": alpaca,
    }
    opened = shapes[row.which(*shapes) or "instruction"](row, settings)
    if not opened.turns:
        raise Unfit("no reply")
    reply = read_said(joined(opened.turns[-1], opened.style), opened.style, row, learned=True)
    if reply["role"] != "assistant":
        raise Unfit("no reply", "the last turn is not the assistant's")
    good = {"content": reply["content"], "rewards": {"label": float(label)}, "rank": int(not label)}
    return opened._replace(turns=opened.turns[:-1], candidates=[good])


def label_of(row: Fields) -> bool | None:
    """Return what a row says of its answer, true or false; None if it has no such label; Unfit if it says both."""
    labels = [value for key in LABELS if isinstance(value := row.value.get(key), bool)]
    if len(set(labels)) > 1:
        raise Unfit("two labels", "unlike")
    if labels:
        row.asked.update(LABELS)
    return labels[0] if labels else None


NO_REWARD = "reward is not a finite number"


def finite(value: Any) -> float:
    """Return a raw reward as a float; Unfit if it is missing, not a number, or not finite."""
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise Unfit(NO_REWARD, shown(value))
    return number


def plain(value: Any) -> Any:
    """Return what a source says about a row as strict JSON: null for NaN, no text that UTF-8 cannot hold."""
    try:
        text = json.dumps(value, ensure_ascii=False, default=str)  # a table's dates
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise Unfit("lone surrogate", f"at character {error.start} of the row's metadata") from None
    except RecursionError:
        raise Unfit("metadata is nested too deeply") from None
    return json.loads(text, parse_constant=lambda _: None)


# --- rows of several conversations -----------------------------------------------------------------------------------


def super_ni_parts(row: Fields) -> list[Row]:
    """Return the instances of a task file of Super-NaturalInstructions, each with the task's definition.

    Of several right answers the first one is taken. A row that is an instance already is its own only part.
    """
    if row.which("Instances", "definition") != "Instances":
        return [row.value]
    definition = row.raw("Definition")
    if isinstance(definition, list) and definition:
        definition = definition[0]
    parts = []
    for instance in row.list("Instances"):
        given = row.within(instance if isinstance(instance, dict) else {}, "Instances")
        answers = given.get("output")
        parts.append({"definition": definition})
        if "input" in given:
            parts[-1]["inputs"] = given.raw("input")
        if answers:
            parts[-1]["targets"] = answers[0] if isinstance(answers, list) else answers
    return parts


def unnatural_instructions_parts(row: Fields) -> list[Row]:
    """Return the instances of an Unnatural Instructions row as Alpaca rows, its constraints under the instruction."""
    parts = []
    for instance in row.list("instances"):
        given = row.within(instance if isinstance(instance, dict) else {}, "instances")
        instruction, constraints = row.text("instruction"), given.optional_text("constraints")
        if constraints.strip().lower() not in ("", "none", "none."):
            instruction = f"{instruction}\n{constraints}"
        shared = {key: given.raw(key) for key in ("input", "output") if key in given}
        parts.append({"instruction": instruction} | shared)
    return parts


def oasst1_parts(row: Fields) -> list[Row]:
    """Return every path from the root of an OpenAssistant tree to a leaf, depth first; deleted messages are no part."""
    if (prompt := row.object("prompt").value).get("deleted"):
        return []
    paths, open_ends = [], [([], prompt)]
    row.inner.clear()  # the keys of a message are told where its path is read
    while open_ends:
        before, message = open_ends.pop()
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise Unfit("replies are not a list of messages")
        path = [*before, {key: value for key, value in message.items() if key not in ("replies", "deleted")}]
        alive = [reply for reply in replies if not reply.get("deleted")]
        open_ends += [(path, reply) for reply in reversed(alive)]
        if not alive:
            paths.append({"path": path})
    return paths


# --- all of them -----------------------------------------------------------------------------------------------------

FORMATS: dict[str, Callable[[Fields, Settings], Opened]] = {
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
    "preferences": preferences,
    "alpaca_preferences": preferences,
    "sharegpt_preferences": preferences,
    "judged_pairs": judged_pairs,
    "labelled": labelled,
}
RANKED = (
    *("hh", "rewarded", "preferences", "alpaca_preferences", "sharegpt_preferences"),
    *("judged_pairs", "labelled"),
)
PARTS: dict[str, Callable[[Fields], list[Row]]] = {
    "super_ni": super_ni_parts,
    "unnatural_instructions": unnatural_instructions_parts,
    "oasst1": oasst1_parts,
}


def split_row(row: RawRow, schema: str) -> list[RawRow]:
    """Return a raw row's conversations as rows of their own; of most formats a row is its own only part."""
    if row.fault or not isinstance(row.value, dict) or schema not in PARTS:
        return [row]
    fields = Fields(row.value)
    try:
        parts = PARTS[schema](fields)
    except Unfit as unfit:
        return [row._replace(fault=unfit.fault)]
    if not parts:
        return [row._replace(fault=Fault("no conversation in the row"))]
    whole = parts[0] is row.value
    return [row] if whole else [row._replace(value=part, unread=fields.unread) for part in parts]


def open_row(row: RawRow, settings: Settings) -> tuple[Opened, Fault | None]:
    """Return what a row holds, and what is wrong with the row as a whole.

    A ranked row's prompt comes as messages; the turns of others are read one by one in `read_turns`, as they may be cut.
    """
    if row.fault:
        return Opened([]), row.fault
    if not isinstance(row.value, dict):
        return Opened([]), Fault("row is not an object", type(row.value).__name__)
    fields = Fields(row.value)
    turns: list[Any] = []
    try:
        opened = FORMATS[settings["schema"]](fields, settings)
        turns = [joined(turn, opened.style) for turn in opened.turns]
        in_front, rest, missed = split_system(turns, opened.style, settings["max_chars"])
        system = same_system(system_text(opened.system, settings["max_chars"]), in_front)
        opened = opened._replace(turns=rest, system=system, meta=plain(opened.meta or {}))
        if opened.candidates is not None:
            said = [read_said(turn, opened.style, fields) for turn in rest]
            opened = opened._replace(turns=said, style="messages")
        elif label_of(fields) is False:
            raise Unfit("labelled as a bad answer", "the schema labelled reads good and bad ones")
        return opened._replace(unread=fields.unread | missed | row.unread), None
    except Unfit as unfit:
        return Opened(turns), unfit.fault


def joined(turn: Any, style: str) -> Any:
    """Return a turn whose text, if it came in parts, is one."""
    key = ROLES[style][1]
    return turn | {key: joined_text(turn[key])} if isinstance(turn, dict) and key in turn else turn


def same_system(one: str | None, other: str | None) -> str | None:
    """Return a row's system message, which may stand in a column or before the first turn; Unfit if in both, unlike."""
    if holds(one) and holds(other) and one != other:
        raise Unfit("two system messages")
    return one if holds(one) else other
