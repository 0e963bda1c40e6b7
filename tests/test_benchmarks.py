"""Every benchmark runs, at toy size: both sides are measured, and where they are to say the same, they do."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import (
    answering,
    cluster,
    engines,
    gpu,
    length_control,
    planning,
    precision,
    rows,
    sharded_loading,
    start,
    submission,
    sweep,
    trainers,
)
from tests.command import call
from tests.workflow import ROOT
from workflow_scripts.common.files import read_json, write_jsonl, write_manifest
from workflow_scripts.common.turns import turns_of
from workflow_scripts.generate.engine import TransformersEngine

NUMBER = r"(-?\d+(?:\.\d+)?)"


def numbers(pattern: str, text: str) -> list[tuple[float, ...]]:
    """Return what {} stands for in every line that has a pattern, as numbers."""
    found = re.findall(re.escape(pattern).replace(r"\{\}", NUMBER).replace(r"\ ", r"\s+"), text)
    return [
        tuple(float(each) for each in (match if isinstance(match, tuple) else (match,))) for match in found
    ]


def test_every_benchmark_is_run_by_a_test():
    made = {path.stem for path in (ROOT / "benchmarks").glob("*.py")} - {"__init__"}
    run = set()
    for path in (ROOT / "tests").glob("test_*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "benchmarks":
                inner = node.module.partition(".")[2]
                run |= {inner} if inner else {each.name for each in node.names}
    assert made == run


def test_the_rows_are_conversations_that_take_turns():
    talks = rows.conversations(160)
    assert len({row["id"] for row in talks}) == 160
    for row in talks:
        roles = [message["role"] for message in row["messages"]]
        assert roles == ["system", *(["user", "assistant"] * (len(roles) // 2))]
    turns = rows.turns(30)
    assert [turn["id"] for turn in turns] == [turn["id"] for row in talks for turn in turns_of(row, 1)][:30]
    assert all(turn["messages"][-1]["role"] == "user" for turn in turns)
    assert all(pair["chosen"] != pair["rejected"] for pair in rows.pairs(30))
    assert {0.0, 1.0} <= {row["rewards"]["final_reward"] for row in rows.rewarded(30)}


def test_the_run_for_a_gpu_runs_here_at_toy_size(tiny_model, capsys, tmp_path, monkeypatch):
    monkeypatch.setattr(gpu, "VLLM", tmp_path / "none")
    call(gpu.main, tiny_model, "--shape", "toy", "--batches", 1, "--count", 3, "--new-tokens", 4)
    said = capsys.readouterr().out
    assert "TFLOPs a second by a product of matrices" in said and "so not compared" in said
    shares = numbers("MFU {} %", said)
    assert len(shares) == 4 and all(0 < share < 100 for (share,) in shares)
    for wanted in (
        "SFT: {} batches of {} rows",
        "DPO: {} batches of {} rows",
        "greedy padded batches {} tokens/s",
    ):
        assert numbers(wanted, said), wanted


def test_what_a_study_asks_of_a_cluster_comes_from_its_plan():
    made = cluster.table(["studies/tutorbot.yaml"], "profiles/slurm-a100")
    *_, row = made.splitlines()
    assert re.match(
        r"\| `tutorbot` \| \d+ \| 15 \| llama, 8.03 B \| 4 by zero3 \| 32 of 80 \| 129 \| [\d,]+ \|", row
    )
    assert row in (ROOT / "docs/cluster.md").read_text()


def test_a_sweep_is_planned_and_has_the_policies_asked_for(capsys):
    call(planning.main, "--policies", 5)
    said = capsys.readouterr().out
    (_, spent, _, memory), (jobs, *_) = numbers("{} jobs, {} CPU seconds ({} s), {} MiB", said)
    assert spent > 0 and memory > 50 and jobs > 100


def test_a_finished_sweep_is_made_up_and_found_finished(tmp_path):
    place, study = planning.empty_place(tmp_path / "place"), ROOT / "studies/follow_instructions-small.yaml"
    jobs, _ = planning.planned(study, place)
    planning.make_up(study, place)
    first, second = planning.found_finished(study, place)
    assert jobs > 10 and second.cpu < first.cpu


def test_light_jobs_are_handed_over_to_slurm(cluster, capsys, monkeypatch):
    for name in ("PATH", "LD_LIBRARY_PATH"):
        if name in cluster.env:
            monkeypatch.setenv(name, cluster.env[name])
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{cluster.env['PATH']}")
    call(submission.main, "--jobs", 12)
    ((jobs, head, alone),) = numbers(
        "{} jobs: {} a second by the head, {} by sbatch alone", capsys.readouterr().out
    )
    assert jobs == 12 and head >= 0 and alone > 0


def test_the_flops_of_a_token_follow_the_formula():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=10, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    weights = 4 * 8 * 8 + 3 * 8 * 16 + 3 * 8 + 10 * 8  # attention, inner layer, norms, output
    assert gpu.weights_multiplied(LlamaForCausalLM(config)) == weights
    assert gpu.flops_per_token(config, weights, 6) == 6 * weights + 12 * 8 * 3


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H100 80GB HBM3", 989e12)],
)
def test_what_a_card_could_do_is_its_data_sheet_s(monkeypatch, name, peak):
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu.torch.cuda, "get_device_name", lambda: name)
    assert gpu.peak_flops() == (peak, "its data sheet")


def test_what_a_card_has_no_memory_for_is_left_out_and_told_of(capsys):
    with gpu.alone("DPO"):
        raise gpu.torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 14 GiB.\nMore.")
    assert capsys.readouterr().out == (
        "DPO: left out, the device has no memory for it: CUDA out of memory. Tried to allocate 14 GiB.\n"
    )


def test_trainers_compare_equal_losses(tiny_model, capsys):
    call(trainers.main, tiny_model, "--batches", 1)
    said = capsys.readouterr().out
    assert numbers("SFT: {} batches of {} rows, {} tokens", said)[0][:2] == (1, 8)
    assert numbers("DPO: {} batches of {} rows, {} tokens", said)[0][:2] == (1, 8)
    stock, ours = (numbers(f"{name} {{}} tokens/s loss {{}}", said) for name in ("padded", "free"))
    assert len(stock) == 2
    assert ours[0][1] == pytest.approx(stock[0][1], abs=1e-3)
    (shared,) = numbers("prompts shared {} tokens/s loss {}", said)
    assert shared[1] == pytest.approx(stock[1][1], abs=1e-3)
    assert len(numbers("reference, once {} tokens/s", said)) == 1
    apart = numbers("ratio {}, losses at most {} apart", said)
    assert len(apart) == 2
    assert all(ratio > 0 and distance < 1e-3 for ratio, distance in apart)


def test_a_sweep_counts_the_tokens_of_every_way(tiny_model, capsys):
    call(sweep.main, tiny_model, "--rows", 8, "--seeds", 2)
    said = capsys.readouterr().out
    found = dict(
        zip(sweep.WAYS, (numbers(f"{way} {{}} tokens", said)[0][0] for way in sweep.WAYS), strict=True)
    )
    assert 0 < found["shared"] < found["each its own"] < found["stock TRL"]
    shares = numbers("shared takes {} of the tokens, {} of the seconds", said)
    assert [share for share, _ in shares] == pytest.approx(
        [found["shared"] / found[way] for way in sweep.WAYS], abs=0.01
    )


def test_tokens_are_counted_without_padding():
    table = torch.nn.Embedding(200, 2)
    with sweep.counting({0, 3}, 100) as counted:
        table(torch.tensor([[0, 3, 5], [3, 7, 8]]))
        torch.nn.Embedding(10, 2)(torch.tensor([5]))  # of positions, say
    table(torch.tensor([5]))
    assert counted == [3]


def test_answering_compares_the_same_answers(tiny_model, capsys):
    call(answering.main, tiny_model, "--count", 6, "--batch-size", 3, "--new-tokens", 10)
    said = capsys.readouterr().out
    for name in ("greedy", "drawn"):
        ((ratio, alike, count),) = numbers(
            f"{name} ratio of CPU seconds {{}}, {{}} of {{}} answers the same", said
        )
        assert ratio > 0
        assert alike == count == 6
        tokens = [
            numbers(f"{name} {way} {{}} tokens/s {{}} tokens", said)[0][1]
            for way in ("padded batches", "ours")
        ]
        assert tokens[0] == tokens[1] > 0


def test_engines_are_compared_on_a_prompt_set(tiny_model, tmp_path, monkeypatch, capsys):
    """Without vLLM, whose own tests want its environment: transformers stands in for it."""
    monkeypatch.setattr(engines, "VllmEngine", TransformersEngine)
    prompts = [turn | {"followups": []} for turn in rows.turns(3)]
    write_jsonl(tmp_path / "set.jsonl", prompts)
    sampling = {"temperature": 0.0, "top_p": 1.0, "max_new_tokens": 5, "min_new_tokens": 0, "beams": 1}
    sampling |= {"repetition_penalty": 1.0, "batch_size": 4, "stop": [], "samples": 1}
    write_manifest(tmp_path / "set.json", [tmp_path / "set.jsonl"], sampling=sampling)
    assert read_json(tmp_path / "set.json")["sampling"] == sampling
    call(engines.main, tiny_model, "--prompts", tmp_path / "set.json", "--limit", 2)
    said = capsys.readouterr().out
    assert [len(numbers(f"{name} {{}} tokens/s {{}} tokens", said)) for name in ("vLLM", "transformers")] == [
        1,
        1,
    ]
    assert numbers("ratio {}, {} of {} answers the same", said)[0][1:] == (2, 2)


def test_precision_measures_both_formats_of_both_passes(tiny_model, monkeypatch, capsys):
    monkeypatch.setattr(precision, "LENGTH", 16)
    monkeypatch.setattr(precision, "ROUNDS", 1)
    call(precision.main, tiny_model)
    said = capsys.readouterr().out
    for name in ("training", "forward"):
        ((slow, fast, ratio),) = numbers(f"{name} float32 {{}} bfloat16 {{}} tokens/s ratio {{}}", said)
        assert min(slow, fast, ratio) > 0


def test_length_control_tells_of_both_models(capsys):
    call(length_control.main, "--datasets", 2, "--prompts", 12, "--draws", 3)
    said = capsys.readouterr().out
    assert [line.split()[0] for line in said.splitlines()] == ["full", "minimal"][::-1]
    for truth, estimate, *_ in numbers("true {} mean estimate {} spread of estimates {}", said):
        assert abs(truth - estimate) < 0.5


def test_start_tells_both_and_their_ratio(capsys):
    call(start.main, "--modules", "workflow_scripts.common.files", "--repeats", 1)
    head, row, total = capsys.readouterr().out.splitlines()
    assert head.split() == ["module", "as", "it", "is", "ours", "ratio"]
    before, after, ratio = (float(word.rstrip("s")) for word in row.split()[1:])
    assert min(before, after) > 0
    assert ratio == pytest.approx(after / before, abs=0.2)
    assert total.split()[1:] == row.split()[1:]


def test_the_chain_of_starts_is_what_the_rules_run():
    found = start.chain()
    assert {
        "workflow_scripts.sft.train",
        "workflow_scripts.generate.collect",
        "workflow_scripts.clean.clean",
    } <= set(found)
    assert len(found) > 30


def test_sharded_loading_tells_what_each_size_takes(capsys):
    call(sharded_loading.main, "--millions", 0, "--processes", 2)
    head, row = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["parameters", "processes", "parallel"]
    millions, processes, parallel, *sizes = row.replace(" M", "").split()
    whole, share, bound, loading, writing = map(float, sizes)
    assert (float(millions), int(processes), parallel) == (pytest.approx(0.2, abs=0.05), 2, "fsdp")
    assert 0 <= share <= bound
    assert whole <= 2
    assert min(loading, writing) >= 0
    assert max(loading, writing) < 100
