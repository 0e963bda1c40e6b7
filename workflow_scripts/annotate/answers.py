"""Add reward columns to a policy's answers to a prompt set, as `annotate.annotate` adds them to gold replies.

Every sample of every prompt's first turn becomes a row with the prompt's messages and meta. Not covered: later turns of
a dialogue, and prompts that are plain text.
"""

from pathlib import Path

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.reward_columns import (
    Reward,
    Rewards,
    answer_turn,
    cut_texts,
    provenance,
    reward_rows,
)
from workflow_scripts.common.turns import turns_of

Settings = Rewards


def answer_rows(prompts: list[dict], generations: list[dict], where: str) -> list[dict]:
    """Return a turn per first answer, by prompt and sample: its id is "<prompt id>/<sample>", its text the reference,
    and the prompt's own reference is `gold`.

    `where` names the generations in messages. Raises PlumblineError when a prompt has no messages or no answer, when an
    answer belongs to no prompt, and when one stands twice.
    """
    samples: dict[str, dict[int, str]] = {prompt["id"]: {} for prompt in prompts}
    for row in generations:
        if row["id"] not in samples:
            raise PlumblineError(
                f"{where}: answer to {row['id']!r}, which is not in the prompt set; generate again"
            )
        if row["turn"] == 0:
            if row["sample"] in samples[row["id"]]:
                raise PlumblineError(
                    f"{where}: sample {row['sample']} of {row['id']!r} occurs twice; generate again"
                )
            samples[row["id"]][row["sample"]] = row["text"]
    rows = []
    for prompt in prompts:
        if "messages" not in prompt:
            raise PlumblineError(
                f"prompt {prompt['id']}: is plain text; rewards are given to answers in a dialogue"
            )
        if not samples[prompt["id"]]:
            raise PlumblineError(
                f"{where}: no answer to {prompt['id']!r}; every prompt needs one, so generate again"
            )
        rows += [
            answer_turn(prompt, text) | {"id": f"{prompt['id']}/{sample}"}
            for sample, text in sorted(samples[prompt["id"]].items())
        ]
    return rows


def refuse_given(rewards: dict[str, Reward]) -> None:
    """Raise PlumblineError for a reward that only rows of the raw data bring."""
    given = [name for name, settings in rewards.items() if "given" in settings]
    if given:
        raise PlumblineError(
            f"reward {given[0]}: generated answers have no given rewards; name a rule, a function or a classifier for "
            "them"
        )


def main() -> None:
    files = {"prompts": "the prompt set", "generations": "the policy's answers to it"}
    parser = step_parser(__doc__, Settings, **files, fit_rows="rows the tf-idf weights are fitted on")
    parser.add_argument("--work", type=Path, help="folder that keeps the scores of classifiers")
    parser.add_argument("--shards", type=int, default=1, help="processes that share what a classifier reads")
    arguments = parser.parse_args()
    rewards = arguments.settings["rewards"]
    refuse_given(rewards)
    prompts = answered_prompts(arguments.prompts, arguments.generations)
    generations = read_jsonl(arguments.generations)
    rows = answer_rows(prompts, generations, str(arguments.generations))
    fit_on = [turn["reference"] for row in read_jsonl(arguments.fit_rows) for turn in turns_of(row)]
    rewarded = reward_rows(rows, fit_on, rewards, arguments.work, arguments.shards)
    for row in rewarded:
        del row["gold"]  # it stands in the prompt set
    counts = {"prompts": len(prompts), "answers": write_jsonl(arguments.output, rewarded)}
    if counts["answers"] != len(rows):
        raise AssertionError(f"{len(rows)} answers read, {counts['answers']} annotated")
    cut = cut_texts(rewarded, rewards, str(arguments.generations))
    facts = {"counts": counts, "texts_cut": cut, "columns": provenance(rewards)}
    write_manifest(arguments.manifest, [arguments.output], **facts)


if __name__ == "__main__":
    run(main)
