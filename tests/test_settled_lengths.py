"""Rows are no longer than the context where a study does not say how long; what it says is left, and doubted."""

import pytest

from workflow_scripts.study.checking import examine

SHORT = 256
STEPS = {"epochs": 1, "batch_size": 4}


def study(context: int = SHORT, **sections: dict) -> dict:
    rows = {
        "source": "rows",
        "files": ["a.jsonl"],
        "schema": "alpaca",
        "split": {"quotas": {"train": 9, "test": 9}},
    }
    base = {
        "study": "short",
        "sources": {
            name: {"places": [{"hf": {"repo": "a/b", "revision": "0" * 40, "files": {"a.jsonl": "a.jsonl"}}}]}
            for name in ("weights", "rows")
        },
        "models": {"tiny": {"source": "weights", "template": "plain", "context": context}},
        "datasets": {"qa": rows},
        "pairs": {
            "best": {
                "dataset": "qa",
                "split": "train",
                "from": "samples",
                "samples": 2,
                "rank": "exact_match",
            }
        },
        "runs": {
            "sft": {
                "method": "sft",
                "parent": "tiny",
                "dataset": "qa",
                "split": "train",
                "validation": None,
                "learning_rate": 1.0e-4,
                **STEPS,
            },
            "dpo": {"method": "dpo", "parent": "sft", "pairs": "best", "learning_rate": 1.0e-5, **STEPS},
        },
        "benchmarks": {"loss": {"kind": "loss", "dataset": "qa", "split": "test"}},
    }
    base["pairs"]["best"]["max_new_tokens"] = 40
    for section, entries in sections.items():
        for name, keys in entries.items():
            base[section][name] |= keys
    return base


def lengths(config: dict) -> dict[str, int]:
    whole = examine(config).study
    return {
        "sft": whole.runs["sft"].max_tokens,
        "pairs": whole.pairs["best"].max_tokens,
        "prompt": whole.pairs["best"].max_prompt_tokens,
        "loss": whole.benchmarks["loss"].max_tokens,
    }


def doubts(config: dict) -> list[str]:
    found = examine(config)
    assert found.wrong == []
    return [line for line in found.doubts if "positions the model has not" in line]


def test_what_is_not_said_is_the_context_and_that_is_told():
    found = examine(study())
    assert found.wrong == [] and doubts(study()) == []
    assert lengths(study()) == {"sft": 256, "pairs": 256, "prompt": 192, "loss": 256}
    assert "pairs.best: max_tokens 256, max_prompt_tokens 192: the context of tiny is 256" in found.said


def test_in_a_context_that_is_long_enough_the_defaults_stand():
    assert lengths(study(4096)) == {"sft": 1024, "pairs": 1024, "prompt": 768, "loss": 1024}
    assert not any("the context of" in line for line in examine(study(4096)).said)


def test_what_a_study_says_is_left_and_doubted():
    asked = study(
        runs={"sft": {"max_tokens": 512}}, pairs={"best": {"max_tokens": 512, "max_prompt_tokens": 64}}
    )
    assert lengths(asked) == {"sft": 512, "pairs": 512, "prompt": 64, "loss": 256}
    assert len(doubts(asked)) == 2


def test_a_prompt_that_is_said_keeps_its_length():
    assert lengths(study(pairs={"best": {"max_prompt_tokens": 100}}))["prompt"] == 100
    long = study(pairs={"best": {"max_prompt_tokens": 300}})
    assert lengths(long)["pairs"] == 1024 and len(doubts(long)) == 1


@pytest.mark.parametrize("contexts", [(256, 128), (128, 256)])
def test_of_several_models_the_shortest_context_counts(contexts):
    asked = study(contexts[0], runs={"sft": {"parent": ["tiny", "other"]}})
    asked["models"]["other"] = asked["models"]["tiny"] | {"context": contexts[1]}
    assert lengths(asked) == {"sft": 128, "pairs": 128, "prompt": 96, "loss": 128}
