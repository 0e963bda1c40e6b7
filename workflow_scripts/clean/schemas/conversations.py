"""The schemas of plain conversations: each has a function from a row's fields to turns, and a line in SCHEMAS.

The sources of the Tulu mixtures (Wang et al. 2023; Ivison et al. 2023), and beside them what others write in the same
columns: `system` and `history`. Rows that hold several conversations are cut apart first, by `parts`. The words that
Tulu draws for an instruction come later (`instructions`).
"""

import random

from workflow_scripts.clean.fields import Fields, Unfit, holds
from workflow_scripts.clean.schemas.row import (
    Opened,
    Parts,
    Question,
    Row,
    Schema,
    ask,
    assistant,
    read_history,
    read_instruction,
    user,
)
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.tested import read_tests
from workflow_scripts.clean.turns import SYSTEM_ROLES

NO_TOOLS = ("[]", "{}", "null")  # what a column of tools holds in rows that have none


def tutorbot(row: Fields, settings: Settings) -> Opened:
    """Read {"conversations": [{"from": human|gpt, "value"}], "solutions"?}, the replies being structured.

    `solutions` says of each reply in turn what it would give away by saying it, or null; it becomes the row's meta.
    """
    solutions = row.list("solutions") if row.get("solutions") is not None else []
    if not all(isinstance(text, str | None) for text in solutions):
        raise Unfit("text is not a string", "'solutions'")
    meta = {"solutions": solutions} if solutions else None
    return Opened(row.list("conversations"), style="tutorbot", meta=meta)


def messages(row: Fields, settings: Settings) -> Opened:
    """Read {"messages": [{"role": system|user|assistant, "content"}], "system"?, "dataset"?, "tests"?}.

    The system message comes first if there is one. In a mixture of sources `dataset` is a row's own.
    """
    return Opened(row.list("messages"), system=row.get("system"), meta=origin_of(row) | read_tests(row))


def text(row: Fields, settings: Settings) -> Opened:
    """Read {"text"}: a plain text, as language modelling learns it."""
    return Opened([{"role": "text", "content": row.raw("text")}], meta=origin_of(row))


def origin_of(row: Fields) -> Row:
    """Return which of several sources a row says it is from, as its meta; nothing if it does not say."""
    source = row.of_type("dataset", str)
    return {"dataset": source} if source else {}


def prompt_completion(row: Fields, settings: Settings) -> Opened:
    """Read {"prompt", "completion", "system"?, "tests"?}, prompt and completion a text or a list of messages."""
    prompt, completion = row.raw("prompt"), row.raw("completion")
    before = prompt if isinstance(prompt, list) else [user(prompt)]
    return Opened(
        [*before, *(completion if isinstance(completion, list) else [assistant(completion)])],
        system=row.get("system"),
        meta=read_tests(row),
    )


def alpaca(row: Fields, settings: Settings) -> Opened:
    """Read {"instruction", "input"?, "output", "system"?, "history"?, "tests"?}: all of Alpaca and Self-Instruct."""
    output = row.raw("output")
    asked, meta = read_instruction(row, settings)
    turns = [*read_history(row), asked, assistant(output)]
    told = meta | read_tests(row)
    return Opened(turns, system=row.get("system"), meta=told, question=Question(**meta))


def dolly(row: Fields, settings: Settings) -> Opened:
    """Read {"instruction", "context", "response"}."""
    asked, meta = read_instruction(row, settings, "context")
    return Opened([asked, assistant(row.raw("response"))], meta=meta, question=Question(**meta))


def flan(row: Fields, settings: Settings) -> Opened:
    """Read {"inputs", "targets"}: FLAN v2 and its chain-of-thought part."""
    return Opened([user(row.raw("inputs")), assistant(row.raw("targets"))])


def super_ni(row: Fields, settings: Settings) -> Opened:
    """Read {"definition", "inputs", "targets"}, an instance of Super-NaturalInstructions; see `super_ni_parts`."""
    instruction, extra = row.text("definition"), row.text("inputs")
    examples = worked_examples(row, "examples") if settings["few_shot"] and "examples" in row else None
    return Opened(
        [user(ask(instruction, extra, settings)), assistant(row.raw("targets"))],
        meta={"instruction": instruction, "input": extra},
        question=Question(instruction, extra, examples),
    )


def sharegpt(row: Fields, settings: Settings) -> Opened:
    """Read {"conversations": [{"from": system|human|user|gpt|chatgpt, "value"}], "system"?, "tests"?}.

    The system turn comes first if there is one. Talks with another assistant, or with a system turn further on, are
    left out whole, as the source does.
    """
    turns = row.list("conversations")
    for place, turn in enumerate(turns):
        speaker = turn.get("from") if isinstance(turn, dict) else None
        if speaker == "bing" or (place and speaker in SYSTEM_ROLES and holds(turn.get("value"))):
            raise Unfit("speaker the source leaves out", speaker)
    if row.value.get("tools") in NO_TOOLS:
        row.get("tools")
    return Opened(turns, system=row.get("system"), style="sharegpt", meta=read_tests(row))


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
    return Opened([user(row.raw("input")), assistant(row.raw("output"))], meta=origin_of(row))


def super_ni_parts(row: Fields, settings: Settings, draws: random.Random) -> Parts:
    """Return the instances of a task file of Super-NaturalInstructions, each with the task's definition.

    Of several right answers the first one is taken. With `few_shot` so many instances are drawn, and those behind the
    first `zero_shot` come with the task's worked examples. A row that is an instance already is its own only part.
    """
    if row.which("Instances", "definition") != "Instances":
        return Parts([row.value], {})
    definition, rule = row.raw("Definition"), settings["few_shot"]
    if isinstance(definition, list) and definition:
        definition = definition[0]
    examples, instances = worked_examples(row, "Positive Examples") if rule else [], row.list("Instances")
    there = len(instances)
    if rule and rule["zero_shot"] + rule["few_shot"] < there:
        instances = draws.sample(instances, k=rule["zero_shot"] + rule["few_shot"])
    parts: list[Row] = []
    for instance in instances:
        given = row.within(instance if isinstance(instance, dict) else {}, "Instances")
        answers = given.get("output")
        shown = {"examples": examples} if rule and len(parts) >= rule["zero_shot"] else {}
        parts.append({"definition": definition} | shown)
        if "input" in given:
            parts[-1]["inputs"] = given.raw("input")
        if answers:
            parts[-1]["targets"] = answers[0] if isinstance(answers, list) else answers
    return Parts(parts, {"instances of a task that few_shot leaves out": there - len(instances)})


def worked_examples(row: Fields, key: str) -> list[Row]:
    """Return the worked examples of a task of Super-NaturalInstructions, which may have none: {"input", "output"}."""
    examples = row.list(key) if row.get(key) is not None else []
    given = [row.within(each if isinstance(each, dict) else {}, key) for each in examples]
    return [{"input": each.text("input"), "output": each.text("output")} for each in given]


def unnatural_instructions_parts(row: Fields, settings: Settings, draws: random.Random) -> Parts:
    """Return the instances of an Unnatural Instructions row as Alpaca rows, its constraints under the instruction."""
    parts = []
    for instance in row.list("instances"):
        given = row.within(instance if isinstance(instance, dict) else {}, "instances")
        instruction, constraints = row.text("instruction"), given.optional_text("constraints")
        if constraints.strip().lower() not in ("", "none", "none."):
            instruction = f"{instruction}\n{constraints}"
        shared = {key: given.raw(key) for key in ("input", "output") if key in given}
        parts.append({"instruction": instruction} | shared)
    return Parts(parts, {})


def oasst1_parts(row: Fields, settings: Settings, draws: random.Random) -> Parts:
    """Return every path from the root of an OpenAssistant tree to a leaf, depth first; deleted messages are no part.

    With `top_replies` a path goes on to so many replies of a message, those that people gave the highest quality.
    """
    if (prompt := row.object("prompt").value).get("deleted"):
        return Parts([], {})
    most, left_out = settings["top_replies"], 0
    paths: list[Row] = []
    open_ends: list[tuple[list[Row], Row]] = [([], prompt)]
    row.inner.clear()  # the keys of a message are told where its path is read
    while open_ends:
        before, message = open_ends.pop()
        replies = message.get("replies") or []
        if not isinstance(replies, list) or not all(isinstance(reply, dict) for reply in replies):
            raise Unfit("replies are not a list of messages")
        path = [*before, {key: value for key, value in message.items() if key not in ("replies", "deleted")}]
        alive = [reply for reply in replies if not reply.get("deleted")]
        if most is not None:
            left_out += max(len(alive) - most, 0)
            alive = sorted(alive, key=quality_of, reverse=True)[:most]
        open_ends += [(path, reply) for reply in reversed(alive)]
        if not alive:
            paths.append({"path": path})
    return Parts(paths, {"replies that top_replies leaves out": left_out})


def quality_of(message: Row) -> float:
    """Return the quality that people gave a message of OpenAssistant, 0 to 1; 0 where nobody did."""
    labels = message.get("labels")
    quality = labels.get("quality") if isinstance(labels, dict) else None
    value = quality.get("value") if isinstance(quality, dict) else None
    return float(value) if isinstance(value, float | int) and 0 <= value <= 1 else 0.0


SCHEMAS = {
    "tutorbot": Schema(tutorbot),
    "tutorbot_pairs": Schema(tutorbot, "pair"),
    "tutorbot_raw_pairs": Schema(tutorbot, "raw_pair"),
    "messages": Schema(messages),
    "text": Schema(text, "text"),
    "prompt_completion": Schema(prompt_completion),
    "super_ni": Schema(super_ni, parts=super_ni_parts),
    "cot": Schema(flan),
    "flan_v2": Schema(flan),
    "dolly": Schema(dolly),
    "self_instruct": Schema(alpaca),
    "unnatural_instructions": Schema(alpaca, parts=unnatural_instructions_parts),
    "alpaca": Schema(alpaca),
    "sharegpt": Schema(sharegpt),
    "baize": Schema(baize),
    "oasst1": Schema(oasst1, parts=oasst1_parts),
    "lima": Schema(lima),
    "wizardlm": Schema(wizardlm),
    "open_orca": Schema(open_orca),
    "hard_coded": Schema(hard_coded),
    "science": Schema(science),
}
