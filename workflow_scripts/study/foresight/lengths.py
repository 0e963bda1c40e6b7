"""Answers that leave a prompt no room, and rows that are longer than the context of the model that reads them."""

from collections.abc import Iterator

from workflow_scripts.study.findings import Finding, doubt, wrong
from workflow_scripts.study.lineage import Policy, models_under
from workflow_scripts.study.settling.lengths import LITTLE_ROOM
from workflow_scripts.study.study import Study


def room_for_answers(study: Study, policies: dict[str, Policy]) -> Iterator[Finding]:
    """Find answers that would leave a prompt no room in a model's context."""
    asking = [
        (section, name, f"{section}.{name}", part)
        for section, name, part in study.parts("benchmarks", "pairs", "values", "runs")
    ]
    asking += [
        ("runs", name, f"runs.{name}.watch", run.watch)
        for name, run in study.trainings().items()
        if run.watch
    ]
    for section, name, where, part in asking:
        longest, path = part.longest_answer(), f"{where}.max_new_tokens"
        for model in models_under(study, policies, section, name) if longest is not None else ():
            context = study.models[model].context
            room = context - longest
            if room < 1:
                yield wrong(
                    path,
                    f"{longest} leaves a prompt no room in the context of {context} (models.{model}.context); "
                    "ask for fewer",
                )
            elif room < LITTLE_ROOM:
                yield doubt(
                    path,
                    f"{longest} leaves a prompt {room} tokens of the context of {context} "
                    f"(models.{model}.context): longer prompts are cut",
                )


def longer_than_context(study: Study, policies: dict[str, Policy]) -> Iterator[Finding]:
    """Find rows that may be longer than the context of the model that reads them; of several models, one is named."""
    for section, name, part in study.parts("reward_models", "values", "runs", "pairs", "benchmarks"):
        row = part.longest_row()
        models = models_under(study, policies, section, name) if row else []
        short = [
            model for model in models if model in study.models and study.models[model].context < row.tokens
        ]
        if short:
            context = f"{study.models[short[-1]].context} (models.{short[-1]}.context)"
            say, what = (wrong, "every block") if row.every else (doubt, "a row that long")
            yield say(
                f"{section}.{name}.{row.keys}",
                f"{row.tokens} is more than the context of {context}: {what} is read at positions the model has not; "
                "lower it",
            )
