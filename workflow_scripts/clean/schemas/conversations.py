"""The schemas of plain conversations: each has a function from a row's fields to turns, and a line in SCHEMAS.

The sources of the Tulu mixtures (Wang et al. 2023; Ivison et al. 2023), and beside them what others write in the same
columns: `system` and `history`. Rows that hold several conversations are cut apart first, by `parts`. Not covered:
Tulu's random instruction templates, and the few-shot prompts it makes of Super-NaturalInstructions.
"""

from workflow_scripts.clean.fields import Fields, Unfit, holds
from workflow_scripts.clean.schemas.row import (
    Opened,
    Row,
    Schema,
    ask,
    assistant,
    read_history,
    read_instruction,
    user,
)
from workflow_scripts.clean.settings import Settings
from workflow_scripts.clean.turns import SYSTEM_ROLES


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
    """Read {"instruction", "input"?, "output", "system"?, "history"?}: all kinds of Alpaca and Self-Instruct."""
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


SCHEMAS = {
    "tutorbot": Schema(tutorbot),
    "tutorbot_pairs": Schema(tutorbot, "pair"),
    "tutorbot_raw_pairs": Schema(tutorbot, "raw_pair"),
    "messages": Schema(messages),
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
