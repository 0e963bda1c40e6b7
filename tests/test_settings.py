"""Settings are read by the types that a script writes down, and no key has a second default."""

import json

import pytest
from typing_extensions import TypedDict

from workflow_scripts.common.errors import PlumblineError
from workflow_scripts.common.settings import settings_of


class Split(TypedDict):
    per_file: bool


class Settings(TypedDict):
    rate: float
    limit: int | None
    split: Split


RIGHT = {"rate": 1, "limit": None, "split": {"per_file": True}}


def test_settings_are_returned_as_they_were_written() -> None:
    found = settings_of(Settings)(json.dumps(RIGHT))
    assert found == RIGHT
    assert isinstance(found["rate"], int)  # a fingerprint of the settings does not depend on who read them


@pytest.mark.parametrize(
    ("change", "path"),
    [
        ({"rate": "1"}, "settings.rate"),
        ({"more": 1}, "settings.more"),
        ({"split": {}}, "settings.split.per_file"),
        ({"split": {"per_file": True, "more": 1}}, "settings.split.more"),
    ],
)
def test_each_wrong_key_is_named_with_its_path(change: dict, path: str) -> None:
    with pytest.raises(PlumblineError, match=path.replace(".", r"\.")):
        settings_of(Settings)(json.dumps(RIGHT | change))


def test_a_missing_key_has_no_default() -> None:
    with pytest.raises(PlumblineError, match=r"settings\.limit"):
        settings_of(Settings)(json.dumps({key: RIGHT[key] for key in ("rate", "split")}))
