"""Add reward columns to a dataset: one per reward source, and `final_reward`, their weighted sum.

Rows are turns: each gold reply, or each candidate of a ranked row, is rewarded in its context. With --work, the scores
of classifiers are kept there batch by batch, so that a killed annotation goes on where it was. Not covered: answers
that a policy generated (`annotate.answers`).
"""

from pathlib import Path

from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import run
from workflow_scripts.common.files import read_jsonl, write_jsonl, write_manifest
from workflow_scripts.common.reward_columns import Rewards, cut_texts, provenance, reward_rows
from workflow_scripts.common.turns import turns_of

Settings = Rewards


def read_turns(path: Path) -> list[dict]:
    """Return the turns of a file of conversations or ranked rows.

    What a reply is compared with, `gold`, is itself, or the preferred one of a ranked row; None where that has none.
    """
    turns = []
    for row in read_jsonl(path):
        if "candidates" in row:
            best = row["candidates"][0]
            gold = best["content"] if best.get("rank", 0) == 0 else None
            turns += [turn | {"gold": gold} for turn in turns_of(row)]
        else:
            turns += [turn | {"gold": turn["reference"]} for turn in turns_of(row)]
    return turns


def main() -> None:
    parser = step_parser(__doc__, Settings, rows="folder with <split>.jsonl")
    parser.add_argument("--splits", nargs="+", required=True)
    parser.add_argument("--fit-split", required=True, help="split the tf-idf weights are fitted on")
    parser.add_argument("--work", type=Path, help="folder that keeps the scores of classifiers")
    parser.add_argument("--shards", type=int, default=1, help="processes that share what a classifier reads")
    arguments = parser.parse_args()
    rewards = arguments.settings["rewards"]
    fit_on = [turn["reference"] for turn in read_turns(arguments.rows / f"{arguments.fit_split}.jsonl")]
    splits = {split: read_turns(arguments.rows / f"{split}.jsonl") for split in arguments.splits}
    # All splits at once: each classifier is loaded once, and texts of like length share a batch.
    rewarded = reward_rows(
        [turn for turns in splits.values() for turn in turns],
        fit_on,
        rewards,
        arguments.work,
        arguments.shards,
    )
    files, counts, start = [], {}, 0
    for split, turns in splits.items():
        files.append(arguments.output / f"{split}.jsonl")
        for row in rewarded[start : start + len(turns)]:
            del row["gold"]
        counts[split] = write_jsonl(files[-1], rewarded[start : start + len(turns)])
        start += len(turns)
        if counts[split] != len(turns):
            raise AssertionError(f"{split}: {len(turns)} turns read, {counts[split]} annotated")
    cut = cut_texts(rewarded, rewards, str(arguments.rows))
    write_manifest(arguments.manifest, files, counts=counts, texts_cut=cut, columns=provenance(rewards))


if __name__ == "__main__":
    run(main)
