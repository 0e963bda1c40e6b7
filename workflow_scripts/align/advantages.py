"""The advantage of each rewarded answer: its reward less the value of its prompt, under the parent's value function.

The value of a prompt is computed once, whatever the number of its answers, and without dropout.
"""

import pyarrow.parquet

from workflow_scripts.align.parent import Asking, load_parent, states_by_prompt
from workflow_scripts.align.summary import positive_share, summary
from workflow_scripts.align.value_head import load_head, read_values
from workflow_scripts.common.command_line import step_parser
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import write_jsonl, write_manifest

Settings = Asking  # batch_size prompts make a forward pass


def main() -> None:
    files = {"head": "folder of align.fit_value", "rewarded": "parquet of align.rewarded_reference"}
    parser = step_parser(__doc__, Settings, parent="model folder", **files)
    arguments = parser.parse_args()
    settings = arguments.settings
    columns = ["id", "prompt", "reward", "rank", "split"]
    rows = pyarrow.parquet.read_table(arguments.rewarded, columns=columns).to_pylist()
    model = load_parent(arguments.parent, settings)
    head = load_head(arguments.head).to(model.device)
    width = model.get_input_embeddings().embedding_dim
    if head.config["width"] != width:
        raise PlumblineError(
            f"{arguments.head}: a value function of width {head.config['width']} cannot read {arguments.parent} "
            f"of width {width}; fit it on this parent"
        )
    found = states_by_prompt(
        model, [row["prompt"] for row in rows], settings["batch_size"], settings["precision"]
    )
    values = {prompt: read_values(head, [states], 1).item() for prompt, states in found}
    advantages = []
    for row in rows:
        value = values[tuple(row["prompt"])]
        reward = row["reward"]
        advantages.append({"id": row["id"], "reward": reward, "value": value, "advantage": reward - value})
    count = write_jsonl(arguments.output, advantages)
    assert count == len(rows)
    learned = [
        each["advantage"]
        for row, each in zip(rows, advantages, strict=True)
        if row["split"] == "train" and row["rank"] == 0
    ]
    write_manifest(
        arguments.manifest,
        [arguments.output],
        counts={"read": len(rows), "kept": count, "rejected": 0, "prompts": len(values)},
        **{name: summary([each[name] for each in advantages]) for name in ("reward", "value", "advantage")},
        kept_share=positive_share(learned) if learned else 0.0,
    )


if __name__ == "__main__":
    run(main)
