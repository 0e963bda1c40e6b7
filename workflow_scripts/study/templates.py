"""Which chat templates a study can name."""

import functools
from typing import TYPE_CHECKING

import yaml

from workflow_scripts.common.code import ROOT

if TYPE_CHECKING:
    from workflow_scripts.study.study import Study


def all_templates(study: "Study") -> dict[str, dict]:
    """Return the templates that come with Plumbline and the study's own, by name."""
    own = {name: template.model_dump(exclude_unset=True) for name, template in study.templates.items()}
    return bundled_templates() | own


@functools.cache
def bundled_templates() -> dict[str, dict]:
    """Return the templates that come with Plumbline, by name."""
    return yaml.safe_load((ROOT / "workflow_scripts/common/templates.yaml").read_text(encoding="utf-8"))
