"""Studies with a value changed."""

import copy


def put(config: dict, path: str, value: object) -> dict:
    """Return a copy of a config with a value at a dotted path; "DROP" takes the key out."""
    config = copy.deepcopy(config)
    *parents, last = path.split(".")
    part = config
    for step in parents:
        part = part[int(step)] if isinstance(part, list) else part.setdefault(step, {})
    if value == "DROP":
        del part[last]
    elif isinstance(part, list):
        part[int(last)] = value
    else:
        part[last] = value
    return config


def many(config: dict, **values: object) -> dict:
    """Return a copy of a config with values at dotted paths, written with __ for the dots."""
    for path, value in values.items():
        config = put(config, path.replace("__", "."), value)
    return config
