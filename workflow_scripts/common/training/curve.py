"""The curve of a training: what of its log is kept, a row a point."""

# What a Trainer logs, and what the curve calls it.
CURVE = {
    "loss": "train_loss",
    "grad_norm": "grad_norm",
    "eval_loss": "validation_loss",
    "eval_accuracy": "validation_accuracy",
    "margin": "margin",
    "accuracy": "accuracy",
    "kl": "kl",
    "clipped_share": "clipped_share",
    "reward": "reward",
    "entropy": "entropy",
    "completions/mean_length": "response_tokens",
    "clip_ratio/region_mean": "clipped_share",
    "completions/clipped_ratio": "unfinished",
    "texts_cut": "texts_cut",
    "engine_gap": "engine_gap",
    "eval_watch": "watch",
    "eval_watch_error": "watch_error",
    "eval_watch_n": "watch_n",
    "eval_watch_unfinished": "watch_unfinished",
    "eval_watch_cut": "watch_cut",
    "rows": "rows",
    "tokens": "tokens",
    "answers": "answers",
    "learning_rate": "learning_rate",
}
AS_IT_IS = ("rows", "tokens", "answers", "watch_n")
BESIDE = {"learning_rate", "grad_norm", "rows", "tokens"}  # what makes no point alone


def curve_of(history: list[dict]) -> list[dict]:
    """Return the curve of a Trainer's log: rows of step, train_loss, validation_loss and what else CURVE names.

    `rows` and `tokens` are all that were learned from up to the step; `answers` what was said to watched prompts then.
    """
    rows = []
    for entry in history:
        row = {new: entry[old] for old, new in CURVE.items() if old in entry}
        row |= {name: round(float(value), 6) for name, value in row.items() if name not in AS_IT_IS}
        if "grad_norm" in row:  # whether it is 0 matters, and it may be tiny
            row["grad_norm"] = float(f"{entry['grad_norm']:.6g}")
        if set(row) - BESIDE:
            rows.append({"step": entry["step"], **row})
    return rows
