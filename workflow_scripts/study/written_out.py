"""A checked study as YAML in which all is said: what it extends is in it, short forms are settled, defaults stand.

Read as a study again it gives the same plan, without the files it was made of and without a hub. Repositories stand
with their commits; `pins_of` has what the lock beside the study says of them.
"""

from pathlib import Path
from typing import Any

import yaml

from workflow_scripts.study.settling.lock import read_lock
from workflow_scripts.study.study import Study

HEAD = """\
# The study as it was run, everything written out. A copy: what is changed here changes nothing, and the next run that
# makes the table writes it anew. To run it again, copy it elsewhere.
"""


def written_out(study: Study) -> str:
    """Return a checked study as YAML, the same text for the same study."""
    values = study.model_dump(by_alias=True, mode="json", exclude={"extends"})
    # Of these what is not said is no default, but what something else says.
    for section in ("templates", "again"):
        for name, part in getattr(study, section).items():
            values[section][name] = part.model_dump(by_alias=True, mode="json", exclude_unset=True)
    said = {key: value for key, value in values.items() if value not in ({}, None)}
    return HEAD + yaml.safe_dump(said, sort_keys=False, allow_unicode=True, width=100)


def pins_of(study: Study, folder: Path) -> list[dict[str, Any]]:
    """Return the entries of the lock in a study's folder that the study rests on, by its sources' repositories."""
    places = [place.hf for source in study.sources.values() for place in source.places if place.hf]
    used = {(place.repo, place.revision) for place in places}
    return [
        entry._asdict()
        for _, entry in sorted(read_lock(folder).items())
        if (entry.repo, entry.commit) in used
    ]
