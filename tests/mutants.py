"""Rows spoilt in the ways that files of strangers are: the same every time, by the generator that is given."""

import json


def deep(depth, kind=list):
    value = "end"
    for _ in range(depth):
        value = [value] if kind is list else {"a": value}
    return value


HOSTILE = [
    *(None, True, False, 0, 1, -1, 2, 0.5, 1e308, -0.0, 10**4200, float("nan"), float("inf"), -float("inf")),
    *(
        "",
        " ",
        "\n",
        "text",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "\ufeff",
        "\u2028",
        "é" * 10,
        "x" * 6000,
        "[" * 4000,
    ),
    *(
        [],
        {},
        [[]],
        [None],
        [1, "a"],
        {"a": []},
        {"": 1},
        {"\ud800": 1},
        {"\x00": {"b": 1}},
        {"role": "user"},
    ),
    *(
        deep(30),
        deep(400),
        deep(400, dict),
        [deep(50)] * 3,
        ["a"] * 300,
        {str(key): key for key in range(100)},
    ),
    *(
        [{"type": "text", "text": "Why?"}],
        [{"type": "tool_use"}],
        [{"type": "text", "text": 3}],
        [{"type": []}],
    ),
    *({"from": "gpt", "value": []}, {"role": [], "content": {}}, {"role": "tool", "content": "4"}),
    *(
        [{"role": "system", "content": ""}],
        {"from": {}, "value": None},
        "\n\nHuman: a\n\nAssistant:",
        "<|prompter|>",
    ),
]

KEYS = (
    "system",
    "history",
    "weight",
    "train",
    "tool_calls",
    "function_call",
    "label",
    "kto_tag",
    "id",
    "idx",
    "output",
)


def again(value):
    return json.loads(json.dumps(value))


def places(value):
    """Return every container within a value with each of its keys."""
    found, within = [], [value]
    while within:
        holder = within.pop()
        for key in list(holder) if isinstance(holder, dict) else range(len(holder)):
            found.append((holder, key))
            if isinstance(holder[key], dict | list):
                within.append(holder[key])
    return found


def mutant(row, rng):
    """Return a row with one to three of its places replaced, taken out, doubled, or given a neighbour."""
    row = again(row)
    for _ in range(rng.randint(1, 3)):
        spots = places(row)[:60]  # what was put in may be changed next, but not for ever
        if not spots:
            break
        holder, key = rng.choice(spots)
        act = rng.choice(["replace", "replace", "replace", "drop", "double", "add"])
        other = again(holder[key] if act == "double" else rng.choice(HOSTILE))
        if act == "replace":
            holder[key] = other
        elif act == "drop":
            del holder[key]
        elif isinstance(holder, list):
            holder.insert(key, other)
        else:
            holder[rng.choice(KEYS)] = other
    return row


def line_of(row, rng):
    """Return a row as a line; of some, one that is broken, ends early, says a key twice or has no end of brackets."""
    line = json.dumps(row, ensure_ascii=rng.random() < 0.9)
    kind = rng.random()
    if kind < 0.03:
        return line[: rng.randrange(1, len(line))]
    if kind < 0.06 and row:
        return f"{{{json.dumps(rng.choice(list(row)))}: 1, {line[1:]}"
    if kind < 0.08:
        return f'{{"conversations": {"[" * 100_000}'
    return json.dumps(rng.choice(HOSTILE)) if kind < 0.1 else line
