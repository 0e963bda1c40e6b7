"""As much of a study as the schema accepts, so that mistakes of one kind do not hide those of another."""

import copy

from pydantic import ValidationError

from workflow_scripts.study.mistakes import path_of, spell, steps_of
from workflow_scripts.study.study import SECTIONS, Study

ROUNDS = 20  # of leaving out what the schema refuses


def inside(path: str, outer: str) -> bool:
    """Tell whether a path is another one or lies under it."""
    return path == outer or path.startswith((f"{outer}.", f"{outer}["))


class Accepted:
    """As much of a study as the schema accepts: `study` (None if too little is left); what is `wrong` with the rest.

    A value that is refused gives way to its default. A part that cannot do without it is left out, and its name is
    `lost`, so that nobody is blamed for naming it. A run or a model has descendants: a part that is right stands in for
    it. Where a section is missing as a whole, nobody knows what it would have named (`whole` is False).
    """

    def __init__(self, config: dict) -> None:
        self.config = copy.deepcopy(config)
        self.study: Study | None = None
        self.wrong: list[str] = []
        self.paths: list[str] = []  # of what is wrong, or stood in for
        self.lost: set[str] = set()
        self.whole = True  # no section is missing, so that a name which is not there is nowhere
        for number in range(ROUNDS):
            try:
                self.study = Study.model_validate(self.config)
            except ValidationError as error:
                found = error.errors()
                self.paths += [path_of(item["loc"]) for item in found]
                self.whole = self.whole and all(self.keeps_sections(item) for item in found)
                if number == 0:  # later ones may be of our own making
                    self.wrong = [spell(item) for item in found]
                for item in found:
                    self.leave_out(steps_of(item["loc"]), item["type"] == "missing")
            else:
                return

    def keeps_sections(self, error: dict) -> bool:
        """Tell whether an error leaves every section where it is: one of a wrong kind, or of a wrong name, does not."""
        steps = steps_of(error["loc"])
        return len(steps) > 1 or (
            error["type"] != "extra_forbidden" and steps[:1] not in [[key] for key in SECTIONS]
        )

    def leave_out(self, steps: list[str | int], missing: bool) -> None:
        """Take the value at some steps out of the config, or, where it is missing, what needs it."""
        if missing and len(steps) == 1:
            return self.stand_in_for_all(steps[0])
        part, there = self.config, []
        for number, step in enumerate(steps, 1):
            if isinstance(part, dict) and step not in part and number < len(steps):
                return None  # an earlier error of this round took out what held it
            if not isinstance(part, dict) or step not in part:
                break  # of a list all goes: others would get another's number
            there.append(step)
            part = part[step]
        if not there or (missing and len(there) == len(steps)):
            return None  # an earlier error of this round was mended there
        if len(there) == 2 and (missing or len(steps) == 2) and there[0] in SECTIONS:
            return self.lose(*there)
        holder = self.config
        for step in there[:-1]:
            holder = holder[step]
        del holder[there[-1]]
        return None

    def lose(self, section: str | int, name: str | int) -> None:
        """Leave out an entry of a section; a run or a model that others descend from is stood in for."""
        entry = self.config[section].pop(name)
        self.lost.add(str(name))
        self.paths.append(path_of([section, name]))
        models = self.config.get("models")
        if section == "runs" and isinstance(entry, dict) and isinstance(models, dict) and models:
            parent = entry.get("parent")
            own = parent if isinstance(parent, str) and parent != name else next(iter(models))
            standing = {"method": "sft", "parent": own, "dataset": "", "learning_rate": 1.0}
            if entry.keys() != standing.keys():  # else it is our own, refused for its name
                self.config[section][name] = standing
        if section == "models" and isinstance(entry, dict) and entry.get("context") != 2**40:
            self.config[section][name] = {"source": "", "template": "", "context": 2**40}

    def stand_in_for_all(self, section: str | int) -> None:
        """Put in what no study can do without."""
        if section == "models":
            self.config[section] = {"model": {"source": "", "template": "", "context": 2**40}}
            self.paths.append("models.model")
        else:
            self.config[section] = "study" if section == "study" else {}

    def blames(self, line: str) -> bool:
        """Tell whether a sentence about the rest blames something that was refused already."""
        path = line.partition(": ")[0]
        return any(inside(path, outer) for outer in self.paths)

    def untouched(self, line: str) -> bool:
        """Tell whether a sentence is about a part in which nothing was refused."""
        entry = line.partition(": ")[0].split(".")[:2]
        return not any(outer.split(".")[:2] == entry for outer in self.paths)
