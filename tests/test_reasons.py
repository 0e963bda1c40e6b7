"""Why a job failed, in one line, with the key to change: read off logs as libraries, launchers and schedulers write."""

import pytest

from workflow_scripts.common.diverged import Diverged
from workflow_scripts.report.reasons import LONGEST, exit_status, given_up, one_line, why_failed

CUDA = (
    "Traceback (most recent call last):\n"
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.15 GiB\n"
)
TOLD_CUDA = "error: no memory left (OutOfMemoryError: CUDA out of memory. Tried to allocate 64.00 MiB. GPU 0): give …\n"
CPU = "RuntimeError: [enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory: you tried to "
FULL = "error: no space left in /work/tmp (OSError: [Errno 28] No space left on device): free some of it\n"
JUDGE = "error: judge 'gpt' cannot be reached (ConnectError: [Errno 111] Connection refused); start it"
TORCHRUN = "E1201 exitcode  : -9 (pid: 77)\n  traceback : Signal 9 (SIGKILL) received by PID 77\n"


@pytest.mark.parametrize(
    ("rule", "log", "status", "reason", "advice"),
    [
        ("train_sft", CUDA, 1, "out of memory on the GPU: 2.50 GiB more were asked for", "per_device_batch"),
        ("train_sft", CUDA, 1, "out of memory on the GPU", "gradient_checkpointing"),
        ("answer_prompts", TOLD_CUDA, 1, "out of memory on the GPU: 64.00 MiB", "max_new_tokens"),
        (
            "train_aligned",
            CPU + "allocate 8589934592 bytes",
            1,
            "out of memory on this machine",
            "mem_mb (training_",
        ),
        ("measure_likelihoods", "MemoryError\n", 1, "out of memory on this machine", "mem_mb (generation_"),
        (
            "train_sft",
            "1 process\n",
            137,
            "killed by SIGKILL (signal 9): out of memory, most",
            "per_device_batch",
        ),
        (
            "train_sft",
            "step 3\nended by SIGKILL (signal 9)\n",
            1,
            "killed by SIGKILL (signal 9)",
            "max_tokens",
        ),
        ("train_sft", TORCHRUN, 1, "killed by SIGKILL (signal 9)", "CORES=1"),
        (
            "answer_prompts",
            "slurmstepd: error: Detected 1 oom_kill event",
            1,
            "out of memory on this",
            "batch_size",
        ),
        ("clean_dataset", "", 137, "killed by SIGKILL (signal 9)", "mem_mb"),
        ("clean_dataset", "", 143, "ended from outside by SIGTERM (signal 15)", ""),
        ("train_sft", "", 139, "crashed with SIGSEGV (signal 11)", "go on"),
        ("train_sft", "", 135, "ended by SIGBUS (signal 7)", "free some"),
        ("train_sft", FULL, 1, "no space left in /work/tmp", "TMPDIR"),
        (
            "train_sft",
            "OSError: [Errno 28] No space left on device",
            1,
            "no space left on the disk",
            "du -sh",
        ),
        ("judge_answers", JUDGE, 1, "judge 'gpt' cannot be reached", "base_url"),
        (
            "train_sft",
            f"error: {Diverged(3, 0.1, 'the loss is')}",
            3,
            "training diverged at step 3",
            "learning_rate",
        ),
        (
            "train_sft",
            "slurmstepd: *** JOB 7 CANCELLED DUE TO TIME LIMIT ***",
            1,
            "it took longer than the",
            "runtime",
        ),
        ("fetch_source", "error: a.json: another sha256\nbye\n", 1, "a.json: another sha256", ""),
        ("score_answers", "Traceback:\nKeyError: 'a'\n", 1, "KeyError: 'a'", ""),
        ("score_answers", "", 2, "it ended (exit status 2) without a word in its log", ""),
        ("score_answers", "", None, "it ended without a word in its log", ""),
    ],
)
def test_the_reason_is_one_line_that_names_what_happened_and_the_advice_the_key(
    rule, log, status, reason, advice
):
    why = why_failed(rule, log, status)
    assert why.reason.startswith(reason) and "\n" not in why.reason
    assert advice in why.advice
    assert bool(why.advice) is bool(advice)


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ("Command 'set -euo pipefail;  false' returned non-zero exit status 137.", 137),
        ("Command 'x' died with <Signals.SIGKILL: 9>.", 137),
        ("MissingOutputException in rule a", None),
    ],
)
def test_snakemakes_words_tell_the_exit_status(words, status):
    assert exit_status(words) == status


def test_a_log_is_shown_without_what_moves_a_cursor_and_no_line_is_long():
    assert one_line("\x1b[31mred\x1b[0m\r  9%|██\x08 x") == "red 9%|██ x"
    assert len(one_line("x" * 1000)) == LONGEST
    assert why_failed("score", '{"a": "' + "y" * 5000 + '"}').reason.endswith("…")


def test_a_training_that_diverged_says_so_though_its_job_ended_well():
    said = f"{{'loss': 2}}\nerror: {Diverged(3, 0.1, 'the loss is')}. The study goes on without it.\n"
    assert given_up("train_sft", said).startswith("training diverged at step 3 (learning rate 0.1)")
    assert given_up("train_sft", "error: not this\n") == given_up("train_sft", "") == ""
    assert given_up("answer_prompts", said) == ""  # which has been handed it
