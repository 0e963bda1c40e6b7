"""Weights are held against the memory of the GPUs that a profile names, before any job is queued."""

import json
import struct
from pathlib import Path

import pytest
import yaml

from workflow_scripts.study.checking import examine
from workflow_scripts.study.memory import SHARED, fitting, read_profile, said_in, weights_in
from workflow_scripts.study.reading import read_yaml

ROOT = Path(__file__).resolve().parents[1]
A100 = read_profile(ROOT / "profiles/slurm-a100")
STUDIES = sorted(path.name for path in (ROOT / "studies").glob("*.yaml"))

LARGE = """
study: large
sources:
  rows: {simulate: {rows: messages, problems: data/bundled/biology_problems.jsonl}}
  weights: {places: [{hf: {repo: owner/name, revision: 0123456789012345678901234567890123456789}}]}
models:
  large: {source: weights, template: tulu, context: 4096, parameters: 8.0e+9}
datasets:
  rows:
    source: rows
    files: [train.jsonl]
    schema: messages
    group_by: question
    split: {quotas: {sft: 90, validation: 9}}
runs:
  sft: {method: sft, parent: large, dataset: rows, learning_rate: 1.0e-5}
training_resources: {gpu: 4}
"""


def looked_at(change=None, profile=A100, machine=lambda: None):
    """Return (mistakes, doubts) about memory of the large study, changed."""
    study = yaml.safe_load(LARGE)
    (change or (lambda _: None))(study)
    found = examine(study, [fitting(profile, machine)])
    words = ("GB", "parameters")
    return [line for line in found.wrong if any(word in line for word in words)], [
        line for line in found.doubts if any(word in line for word in words)
    ]


def test_weights_that_do_not_fit_are_refused_with_what_would():
    wrong, _ = looked_at()
    assert wrong == [
        "runs.sft: trains 8 billion weights of 'large' over 4 GPUs by ddp: 160 GB on a GPU of 80 GB; "
        "with training_resources.parallel: zero2 it would be 64 GB"
    ]


@pytest.mark.parametrize(
    ("parallel", "gigabytes"),
    [("ddp", 160), ("zero2", 64), ("zero3", 32), ("fsdp", 32), ("zero2-offload", 40)],
)
def test_the_bytes_are_those_of_the_cluster_page(parallel, gigabytes):
    assert 8 * SHARED[parallel](4, 8) == gigabytes
    page = (ROOT / "docs/cluster.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("|") and f"`{parallel}`" in line)
    assert f"{gigabytes} GB" in row or "less" in row


def test_what_fits_just_so_is_a_doubt_and_what_fits_is_silent():
    def smaller(study):
        study["models"]["large"]["parameters"] = 3.5e9

    wrong, doubts = looked_at(smaller)
    assert not wrong and doubts == [
        "runs.sft: trains 3.5 billion weights of 'large' over 4 GPUs by ddp: 70 GB of a GPU's 80 GB, which leaves "
        "little for activations; with training_resources.parallel: zero2 it would be 28 GB"
    ]

    def sharded(study):
        study["training_resources"]["parallel"] = "zero3"

    assert looked_at(sharded) == ([], [])


def test_zero3_holds_a_share_but_of_what_each_process_reads_whole_at_first():
    def over(count, gpus, parallel="zero3", **more):
        def change(study):
            study["models"]["large"] |= {"parameters": count} | more
            study["training_resources"] |= {"gpu": gpus, "parallel": parallel}

        return change

    assert looked_at(over(7e10, 32)) == looked_at(over(3e10, 8)) == ([], [])
    [said] = looked_at(over(7e10, 32, trust_remote_code=True))[0]
    assert "over 32 GPUs by zero3: 280 GB on a GPU of 80 GB; with training_resources.parallel: fsdp" in said
    [said] = looked_at(over(3e10, 8, "ddp"))[0]
    assert said.endswith("600 GB on a GPU of 80 GB; with training_resources.parallel: fsdp it would be 60 GB")
    [said] = looked_at(over(7e10, 8, "ddp"))[0]
    assert said.endswith("zero3-offload it would be 35 GB")

    def going_on(study):
        over(3e10, 8)(study)
        study["runs"]["sft"]["lora"] = {"rank": 8, "alpha": 16, "merge": False}

    assert looked_at(going_on) == ([], [])  # of the frozen ones, too, a share

    def whole_from_adapters(study):
        going_on(study)
        study["runs"]["next"] = study["runs"]["sft"] | {"parent": "sft", "lora": None}

    [said] = looked_at(whole_from_adapters)[0]
    assert said.startswith("runs.next: ") and "120 GB" in said


def test_adapters_hold_frozen_weights_and_four_bits_hold_less():
    def adapters(study):
        study["runs"]["sft"]["lora"] = {"rank": 8, "alpha": 16}

    assert looked_at(adapters) == ([], [])

    def larger(study):
        adapters(study)
        study["models"]["large"]["parameters"] = 3e10

    assert "120 GB on a GPU of 80 GB" in looked_at(larger)[0][0]

    def quantised(study):
        larger(study)
        study["runs"]["sft"]["quantise"] = "nf4"

    assert looked_at(quantised) == ([], [])


def test_a_frozen_parent_beside_counts():
    def held(study):
        study["training_resources"]["parallel"] = "zero2"
        study["runs"]["sft"]["kl"] = {"weight": 0.1}

    assert "96 GB on a GPU of 80 GB" in looked_at(held)[0][0]


def test_vllm_beside_a_training_has_its_own_share_of_a_gpu_and_leaves_the_rest():
    def online(study, count=2e9, **more):
        study["models"]["large"]["parameters"] = count
        study["annotations"] = {"long": {"dataset": "rows", "splits": ["sft"], "fit_split": "sft"}}
        study["annotations"]["long"]["rewards"] = {"words": {"rule": "length"}}
        ppo = {
            "method": "ppo",
            "parent": "large",
            "annotation": "long",
            "split": "sft",
            "learning_rate": 1e-6,
        }
        study["runs"] = {"ppo": ppo | {"batch_size": 16, "lora": {"rank": 8, "alpha": 16}} | more}

    def by_vllm(study):
        online(study, engine="vllm", count=8e9, gpu_memory_share=0.3)

    assert looked_at(online) == ([], [])
    assert looked_at(by_vllm) == ([], [])

    def crowded(study):
        online(study, engine="vllm", count=8e9, gpu_memory_share=0.15)

    def wide(study):
        online(study, engine="vllm", count=8e9, precision="float32")

    [said], _ = looked_at(wide)
    assert "32 GB on the 24 GB of a GPU that are its own" in said

    [said], _ = looked_at(crowded)
    assert "16 GB on the 12 GB of a GPU that are its own; raise it" in said

    def squeezed(study):
        online(study, engine="vllm", count=8e9, gpu_memory_share=0.7)

    [said], _ = looked_at(squeezed)
    assert "32 GB on the 24 GB of a GPU that vLLM leaves" in said


def test_a_profile_s_rule_goes_before_the_study():
    profile = {**A100, "train_sft": {**A100["train_sft"], "parallel": "zero3", "gpu": 8}}
    assert looked_at(profile=profile) == ([], [])
    assert "on one GPU" in looked_at(profile={**A100, "train_sft": {"gpu": 1}})[0][0]


@pytest.mark.parametrize("written", ["80", "80.0", 80.0])
def test_a_number_may_be_written_as_a_text(written):
    assert looked_at(profile={"": {"gpu_memory_gb": written}})[0] == looked_at()[0]
    assert (
        "on one GPU" in looked_at(profile={"": {"gpu_memory_gb": written}, "train_sft": {"gpu": "1"}})[0][0]
    )


@pytest.mark.parametrize("written", ["eighty", "80 GB", -1, 0, True, "nan", "inf"])
def test_what_is_no_number_of_gigabytes_is_refused_and_never_passed_over(written):
    wrong, _ = looked_at(profile={"": {"gpu_memory_gb": written}})
    assert wrong == [
        f"the profile's default-resources.gpu_memory_gb: is no number of GB above 0: {written!r}"
    ]


def test_gpus_that_are_known_when_a_job_starts_are_told_of():
    profile = {**A100, "train_sft": {"gpu": "min(4, 2 * attempt)"}}
    found = examine(yaml.safe_load(LARGE), [fitting(profile, lambda: None)])
    assert any(line.startswith("the profile's set-resources.train_sft.gpu: ") for line in found.doubts)


def test_moments_in_eight_bits_are_a_quarter():
    def eight(study):
        study["models"]["large"]["parameters"] = 3.5e9
        study["runs"]["sft"]["optimizer"] = "paged_adamw_8bit"

    assert looked_at(eight) == ([], [])  # 45 GB, where moments of 32 bits make it 72


def test_a_model_of_unknown_size_is_asked_for_and_nothing_without_gpus_or_a_profile():
    def unknown(study):
        del study["models"]["large"]["parameters"]

    wrong, doubts = looked_at(unknown)
    assert not wrong and [line.partition(":")[0] for line in doubts] == ["models.large.parameters"]
    assert looked_at(unknown, profile={}) == ([], [])

    def no_gpus(study):
        study["training_resources"] = {"gpu": 0}

    assert looked_at(no_gpus) == ([], [])


def test_without_a_profile_the_gpus_of_this_machine_count():
    assert looked_at(profile={}, machine=lambda: 24.0)[0][0].endswith(
        "160 GB on a GPU of 24 GB; with training_resources.parallel: zero3-offload it would be 8 GB"
    )
    assert looked_at(profile={}, machine=lambda: 201.0) == (
        [],
        [line for line in looked_at(profile={}, machine=lambda: 201.0)[1] if "leaves little" in line],
    )


def test_what_answers_has_to_fit_too():
    def huge(study):
        study["models"]["large"]["parameters"] = 7e10
        study["training_resources"] = {"gpu": 0}
        study["generation_resources"] = {"gpu": 4}

    assert "answers with 70 billion weights on 1 GPU: 140 GB on a GPU of 80 GB" in looked_at(huge)[0][0]

    def shared(study):
        huge(study)
        study["engine"] = {"name": "vllm"}

    assert looked_at(shared) == ([], [])

    def side_by_side(study):  # four engines, each of which holds all of it on one GPU
        shared(study)
        study["generation_resources"]["shards"] = 4

    assert (
        "answers with 70 billion weights on 1 GPU: 140 GB on a GPU of 80 GB" in looked_at(side_by_side)[0][0]
    )
    two = {"": A100[""], "answer_prompts": {"gpu": 8, "shards": 2}}  # a profile goes before the study
    assert looked_at(shared, profile=two) == ([], [])


def test_weights_are_counted_by_the_headers_of_files(tmp_path):
    header = json.dumps(
        {"a": {"dtype": "F32", "shape": [3, 5], "data_offsets": [0, 60]}, "__metadata__": {"x": "y"}}
    )
    (tmp_path / "m.safetensors").write_bytes(struct.pack("<Q", len(header)) + header.encode() + bytes(60))
    assert weights_in(tmp_path / "m.safetensors") == 15
    (tmp_path / "broken.safetensors").write_bytes(b"\xff" * 40)
    assert weights_in(tmp_path / "broken.safetensors") is None

    def local(study):
        del study["models"]["large"]["parameters"]
        files = {"config.json": str(ROOT / "config.yaml"), "m.safetensors": str(tmp_path / "m.safetensors")}
        study["sources"]["weights"] = {"files": dict.fromkeys(files), "places": [{"file": {"files": files}}]}

    assert looked_at(local) == ([], [])


def test_snakemake_s_own_settings_are_read_like_a_profile():
    class Word:
        def __init__(self, raw):
            self.raw = raw

    class Settings:
        default_resources = {"gpu_memory_gb": Word(40), "mem_mb": Word("min(8000 * attempt, 9)")}  # noqa: RUF012
        overwrite_resources = {"train_sft": {"gpu": Word(8)}}  # noqa: RUF012
        overwrite_threads = {"train_sft": 4}  # noqa: RUF012

    said = said_in(Settings())
    assert said[""]["gpu_memory_gb"] == 40 and said["train_sft"] == {"gpu": 8, "threads": 4}


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_s_trainings_fit_into_the_a100s_of_the_profile(name):
    found = examine(read_yaml(ROOT / "studies" / name), [fitting(A100, lambda: None)])
    assert found.study is not None, found.wrong
    assert [line for line in found.doubts if "GB" in line or "parameters" in line] == []
