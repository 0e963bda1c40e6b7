"""What answers share with their references and with what they were given, how varied and how long they are.

Covers, against the references: corpus BLEU-4 (Papineni et al. 2002; sacrebleu's tokens and counts) and METEOR (Lavie &
Agarwal 2007; nltk's), against the prompt: extractive coverage and density (Grusky et al. 2018), and by themselves:
distinct n-grams and lengths. Where the references are what a policy was trained on, BLEU measures memorisation, so it
has no better direction. Not covered: judges, embeddings, and several references for one answer.
"""

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from typing_extensions import TypedDict

from workflow_scripts.common.answered import answered_prompts
from workflow_scripts.common.errors import PlumblineError, run
from workflow_scripts.common.files import read_jsonl
from workflow_scripts.common.text_measures import NGRAMS, coverage, density, distinct, given_to, meteor_with
from workflow_scripts.common.words import spaced, split_words
from workflow_scripts.score.flags import answers_parser
from workflow_scripts.score.items import SHARE, make_cell, write_scores

CORPUS_NOTE = (
    "of the whole corpus, so it falls as the corpus grows; items are groups, and the interval is the delete-one "
    "jackknife's, which is a little wide"
)


class Settings(TypedDict):
    benchmark: str
    metrics: list[str]
    wordnet: str | None


class Turn(NamedTuple):
    """One item: a turn of a prompt, all of its sampled answers, and what they are measured against."""

    item: str
    group: str
    answers: list[str]
    tokens: list[int]  # of each answer
    reference: str | None
    given: str  # what the prompt gives: its knowledge, or else the last user message


def read_turns(prompts: list[dict], generations: list[dict], where: str) -> list[Turn]:
    """Return one Turn per prompt and turn, in order; `where` names the generations in messages.

    Its item is the prompt's id, with "#<turn + 1>" where the prompt has followups. Raises PlumblineError for an answer
    that was not asked for, one that stands twice, and a turn without any.
    """
    answers: dict[tuple[str, int], dict[int, dict]] = {
        (prompt["id"], turn): {} for prompt in prompts for turn in range(1 + len(prompt["followups"]))
    }
    for row in generations:
        name = f"turn {row['turn']}, sample {row['sample']} of {row['id']!r}"
        if (row["id"], row["turn"]) not in answers:
            raise PlumblineError(f"{where}: {name} is not in the prompt set; generate again")
        samples = answers[row["id"], row["turn"]]
        if row["sample"] in samples:
            raise PlumblineError(f"{where}: {name} occurs twice; generate again")
        samples[row["sample"]] = row
    turns = []
    for prompt in prompts:
        for turn in range(1 + len(prompt["followups"])):
            rows = [row for _, row in sorted(answers[prompt["id"], turn].items())]
            if not rows:
                raise PlumblineError(f"{where}: no answer to turn {turn} of {prompt['id']!r}; generate again")
            turns.append(
                Turn(
                    f"{prompt['id']}#{turn + 1}" if prompt["followups"] else prompt["id"],
                    prompt["group"],
                    [row["text"] for row in rows],
                    [row["completion_tokens"] for row in rows],
                    (prompt["reference"][turn] or None) if prompt["reference"] else None,
                    given_to(prompt, turn),
                )
            )
    return turns


def mean_cell(turns: list[Turn], metric: str, measure: Callable[[Turn, str], float], **extra: Any) -> dict:
    """Return a cell of a measure of single answers; an item is the mean of its samples."""
    values = [sum(measure(turn, answer) for answer in turn.answers) / len(turn.answers) for turn in turns]
    items, groups = [turn.item for turn in turns], [turn.group for turn in turns]
    return make_cell("all", metric, items, groups, {"value": values}, **extra)


def bleu_cells(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cell of corpus BLEU: of each item the n-grams matched (m) and made (t), and lengths, by sacrebleu."""
    from sacrebleu.metrics import BLEU

    metric = BLEU(smooth_method="none")

    def counts(turn: Turn) -> list[int]:
        scores = [
            metric.corpus_score([spaced(answer)], [[spaced(turn.reference)]]) for answer in turn.answers
        ]
        rows = [[*score.counts, *score.totals, score.sys_len, score.ref_len] for score in scores]
        return [sum(column) for column in zip(*rows, strict=True)]

    names = ["m1", "m2", "m3", "m4", "t1", "t2", "t3", "t4", "sys", "ref"]
    columns = zip(*map(counts, turns), strict=True)
    cell = make_cell(
        "all",
        "bleu",
        [turn.item for turn in turns],
        [turn.group for turn in turns],
        {name: list(column) for name, column in zip(names, columns, strict=True)},
        estimator="corpus_bleu",
        higher_is_better=None,
    )
    return [cell]


def meteor_cells(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cell of METEOR; without WordNet only equal words and equal stems match, and its name says so.

    As nltk has it: the synonyms are those of a word's stem.
    """
    meteor = meteor_with(settings["wordnet"])

    def measure(turn: Turn, answer: str) -> float:
        return meteor(answer, turn.reference)

    return [mean_cell(turns, "meteor" if settings["wordnet"] else "meteor_exact_stem", measure, bounds=SHARE)]


def coverage_cells(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cell of extractive coverage: share of an answer's words in shared stretches (eq. 1), 0 if empty."""

    def measure(turn: Turn, answer: str) -> float:
        return coverage(answer, turn.given)

    return [mean_cell(turns, "coverage", measure, higher_is_better=None, bounds=SHARE)]


def density_cells(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cell of extractive density: shared stretches' squared lengths per word (eq. 2), 0 if empty."""

    def measure(turn: Turn, answer: str) -> float:
        return density(answer, turn.given)

    return [mean_cell(turns, "density", measure, higher_is_better=None)]


def ngrams_of(text: str, n: int) -> list[tuple[str, ...]]:
    """Return a text's n-grams of words, in order."""
    words = split_words(text)
    return list(zip(*(words[start:] for start in range(n)), strict=False))


def corpus_distinct(groups: list[list[tuple[str, ...]]]) -> list[float]:
    """Return a value for each group of n-grams; their mean is the corpus' share of distinct n-grams.

    θ = types / tokens (Li et al. 2016) is no mean of groups, but its delete-one jackknife is: the value of group g is
    θ + √(G (G-1)) (mean of the θ without one - θ without g), G groups. Their bootstrap's variance is the jackknife's,
    on average not below the true one (Efron & Stein 1981). Without any n-gram θ is 0.
    """
    counts = [Counter(group) for group in groups]
    holders = Counter(ngram for count in counts for ngram in count)
    types, tokens, size = len(holders), sum(map(len, groups)), len(groups)

    def share(types: int, tokens: int) -> float:
        return types / tokens if tokens else 0.0

    without = np.array(
        [
            share(types - sum(holders[ngram] == 1 for ngram in count), tokens - count.total())
            for count in counts
        ]
    )
    values = share(types, tokens) + (size * (size - 1)) ** 0.5 * (without.mean() - without)
    return values.tolist()


def distinct_cells(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cells of distinct n-grams, of each answer and of the corpus of all answers."""
    names = list(dict.fromkeys(turn.group for turn in turns))
    cells = []
    for n in NGRAMS:
        cells.append(
            mean_cell(
                turns, f"distinct_{n}_per_answer", lambda _, answer, n=n: distinct(answer, n), bounds=SHARE
            )
        )
        said: dict[str, list] = {name: [] for name in names}
        for turn in turns:
            for answer in turn.answers:
                said[turn.group] += ngrams_of(answer, n)
        values = corpus_distinct(list(said.values()))
        cells.append(make_cell("all", f"distinct_{n}", names, names, {"value": values}, note=CORPUS_NOTE))
    return cells


def length_cells(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cells of lengths in words and in the policy's tokens; texts that no policy made have no tokens."""
    cells = [
        mean_cell(turns, "words", lambda _, answer: float(len(split_words(answer))), higher_is_better=None)
    ]
    if all(
        tokens or not text for turn in turns for text, tokens in zip(turn.answers, turn.tokens, strict=True)
    ):
        values = [sum(turn.tokens) / len(turn.tokens) for turn in turns]
        items, groups = [turn.item for turn in turns], [turn.group for turn in turns]
        cells.append(make_cell("all", "tokens", items, groups, {"value": values}, higher_is_better=None))
    return cells


METRICS = {
    "bleu": bleu_cells,
    "meteor": meteor_cells,
    "coverage": coverage_cells,
    "density": density_cells,
    "distinct": distinct_cells,
    "length": length_cells,
}
REFERENCED = ("bleu", "meteor")


def score(turns: list[Turn], settings: dict) -> list[dict]:
    """Return the cells of the metrics in the settings, in their order.

    BLEU and METEOR are over the turns that have a reference. Raises PlumblineError for an unknown metric, and for one
    of these two where no turn has a reference.
    """
    unknown = [name for name in settings["metrics"] if name not in METRICS]
    if unknown:
        raise PlumblineError(f"metrics: unknown {', '.join(unknown)}; allowed: {', '.join(METRICS)}")
    referenced = [turn for turn in turns if turn.reference is not None]
    cells = []
    for name in settings["metrics"]:
        if name in REFERENCED and not referenced:
            raise PlumblineError(f"metrics: {name} needs references, and no prompt has one; leave it out")
        cells += METRICS[name](referenced if name in REFERENCED else turns, settings)
    return cells


def main() -> None:
    """Write the text scores of one policy's answers."""
    args = answers_parser(main.__doc__, Settings).parse_args()
    prompts = answered_prompts(args.prompts, args.generations)
    turns = read_turns(prompts, read_jsonl(args.generations), args.generations)
    bare = sum(turn.reference is None for turn in turns)
    if bare and set(REFERENCED) & set(args.settings["metrics"]):
        print(
            f"{bare} of {len(turns)} turns have no reference and no part in bleu and meteor", file=sys.stderr
        )
    write_scores(args.output, args.settings["benchmark"], score(turns, args.settings))


if __name__ == "__main__":
    run(main)
