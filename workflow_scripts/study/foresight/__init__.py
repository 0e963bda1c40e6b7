"""What a study's keys alone say of how its run would go: where it would fail after hours, learn nothing, or mislead.

A finding is certain (the run would fail, or a number be wrong: a mistake) or a doubt (a warning). Nothing is read but
the study; what takes a look at the machine is in `machine`. Names that refer to nothing are the business of
`references`. What one part says of itself is a method of its class (`faults`); here is what takes several parts
together.
"""

from collections.abc import Iterator

from workflow_scripts.study.apart import written_later
from workflow_scripts.study.findings import Finding, sorted_out
from workflow_scripts.study.foresight.blanks import blanks, unpinned
from workflow_scripts.study.foresight.cells import (
    best_by_nothing,
    cells_there_are_none_of,
    nothing_to_report,
    published_otherwise,
    tasks_not_asked,
)
from workflow_scripts.study.foresight.lengths import longer_than_context, room_for_answers
from workflow_scripts.study.foresight.own_templates import own_after_another
from workflow_scripts.study.foresight.rows import files_of_splits, held_out_in_a_circle, splits_without_rows
from workflow_scripts.study.foresight.tested import tests_that_were_learned
from workflow_scripts.study.foresight.texts import texts_without_questions
from workflow_scripts.study.foresight.training import (
    resources_that_do_not_fit,
    rewards_out_of_reach,
    trainings_of_one_step,
    validated_on_what_is_learned,
)
from workflow_scripts.study.foresight.twice import named_twice
from workflow_scripts.study.foresight.watched import watched_on_tests, watched_on_what_is_learned
from workflow_scripts.study.lineage import Policy
from workflow_scripts.study.study import Study


def foreseen(study: Study, policies: dict[str, Policy]) -> tuple[list[str], list[str]]:
    """Return (mistakes, doubts) of a study whose parts the schema accepts, by path; `policies` {} where unknown."""
    return sorted_out(
        [
            *room_for_answers(study, policies),
            *longer_than_context(study, policies),
            *faults_of_parts(study),
            *own_after_another(study, policies),
            *named_twice(study),
            *resources_that_do_not_fit(study),
            *splits_without_rows(study),
            *files_of_splits(study),
            *held_out_in_a_circle(study),
            *validated_on_what_is_learned(study),
            *trainings_of_one_step(study),
            *rewards_out_of_reach(study),
            *cells_there_are_none_of(study),
            *tasks_not_asked(study),
            *nothing_to_report(study),
            *best_by_nothing(study),
            *published_otherwise(study),
            *tests_that_were_learned(study),
            *texts_without_questions(study),
            *written_later(study),
            *watched_on_tests(study),
            *watched_on_what_is_learned(study),
            *blanks(study),
            *unpinned(study),
        ]
    )


def faults_of_parts(study: Study) -> Iterator[Finding]:
    """Find what every part says of itself."""
    for section, name, part in study.parts():
        yield from part.faults(f"{section}.{name}", study)
