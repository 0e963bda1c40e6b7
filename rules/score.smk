# Answers and likelihoods to item-level scores: one file per policy, seed and benchmark. Light jobs, but where a model


# must speak again (likelihoods, lm-eval, a reward-model judge).
rule score_tutor:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_tutor/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("tutor"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.tutor"),
        settings=score_settings("skip_first_turn"),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.tutor --prompts {input.prompts}l --generations {input.generations}l"
        " --settings {params.settings:q} --output {output} 2> {log}"


rule score_humaneval:
    input:
        source=lambda wildcards: f"{source_folder(STUDY.benchmarks[wildcards.benchmark].source)}/manifest.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_humaneval/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("humaneval"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.humaneval"),
        settings=score_settings(
            "k",
            "timeout_seconds",
            "memory_mb",
            "allow_unsandboxed",
            "workers",
            "limit",
        ),
        problems=lambda wildcards: "{}/files/{}".format(
            source_folder(STUDY.benchmarks[wildcards.benchmark].source),
            STUDY.benchmarks[wildcards.benchmark].file,
        ),
    message:
        "Running the programs of {wildcards.policy} (seed {wildcards.seed}) in a sandbox"
    shell:
        "python -m workflow_scripts.score.humaneval --problems {params.problems} --generations {input.generations}l"
        " --settings {params.settings:q} --output {output} 2> {log}"


rule measure_likelihoods:
    input:
        pairs=f"{CLEAN}/{{benchmark}}/manifest.json",
        model=lambda wildcards: f"{scored_weights(wildcards)}/manifest.json",
    output:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/measure_likelihoods/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("pair_perplexity"),
    conda:
        "../envs/plumbline.yaml"
    threads: 1
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.score.likelihoods"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.benchmarks[wildcards.benchmark],
            keys=["max_tokens"],
            **spoken_by(wildcards.policy),
        ),
        model=scored_weights,
        calibration=calibration_flag("--calibration"),
        pairs=f"{CLEAN}/{{benchmark}}/rows/pairs.jsonl",
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.likelihoods --model {params.model}/model {params.calibration} --pairs {params.pairs}"
        " --settings {params.settings:q} --output {output} 2> {log}"


rule score_pair_perplexity:
    input:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_pair_perplexity/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("pair_perplexity"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.pair_perplexity"),
        settings=score_settings("fidelity"),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.pair_perplexity --likelihoods {input} --settings {params.settings:q} --output {output} 2> {log}"


rule score_rewards:
    input:
        f"{CELL}/rewards/{{benchmark}}.json",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_rewards/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("rewards"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.rewards"),
        settings=lambda wildcards: as_json({"benchmark": wildcards.benchmark}),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.rewards --annotated {input}l --settings {params.settings:q} --output {output} 2> {log}"


rule measure_reply_likelihoods:
    input:
        dataset=lambda wildcards: f"{CLEAN}/{STUDY.benchmarks[wildcards.benchmark].dataset}/manifest.json",
        model=lambda wildcards: f"{scored_weights(wildcards)}/manifest.json",
    output:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/measure_reply_likelihoods/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("loss"),
    conda:
        "../envs/plumbline.yaml"
    threads: 1
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.score.reply_likelihoods"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.benchmarks[wildcards.benchmark],
            keys=["max_tokens", "batch_size", "limit"],
            history_turns=STUDY.datasets[
                STUDY.benchmarks[wildcards.benchmark].dataset
            ].history_turns,
            **spoken_by(wildcards.policy),
        ),
        model=scored_weights,
        calibration=calibration_flag("--calibration"),
        rows=lambda wildcards: clean_rows(
            STUDY.benchmarks[wildcards.benchmark].dataset,
            STUDY.benchmarks[wildcards.benchmark].split,
        ),
    message:
        "Likelihoods of {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.reply_likelihoods --model {params.model}/model {params.calibration}"
        " --rows {params.rows} --settings {params.settings:q} --output {output} 2> {log}"


rule score_reply_loss:
    input:
        f"{CELL}/likelihoods/{{benchmark}}.jsonl",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_reply_loss/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("loss"),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.score.reply_loss"),
        settings=lambda wildcards: as_json({"benchmark": wildcards.benchmark}),
    message:
        "Scoring {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.reply_loss --likelihoods {input} --settings {params.settings:q} --output {output} 2> {log}"


rule score_lm_eval:
    input:
        model=lambda wildcards: f"{scored_weights(wildcards)}/manifest.json",
        tasks=task_files,
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_lm_eval/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of("lm_eval"),
    conda:
        "../envs/plumbline.yaml"
    threads: 1
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.score.lm_eval_run"),
        pins=pins(*TORCH, "lm-eval"),
        settings=score_settings(
            "tasks",
            "include_path",
            "num_fewshot",
            "limit",
            "batch_size",
            "dtype",
            "apply_chat_template",
        ),
        subject=lambda wildcards: (
            f"--oracle {wildcards.policy}"
            if wildcards.policy in CALIBRATION
            else f"--model {scored_weights(wildcards)}/model"
        ),
    message:
        "lm-eval {wildcards.benchmark} of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.score.lm_eval_run {params.subject} --settings {params.settings:q} --output {output} > {log} 2>&1"


rule judge_answers:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
        judge=judge_manifest,
    output:
        f"{CELL}/verdicts/{{benchmark}}.jsonl",
    log:
        f"{LOGS}/judge_answers/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of(*JUDGED),
    conda:
        "../envs/plumbline.yaml"
    threads: 1
    params:
        code=code_of("workflow_scripts.score.judge_answers"),
        kind=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].kind,
        judge=judge_settings,
    message:
        "Judging {wildcards.policy} (seed {wildcards.seed}) on {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.judge_answers --benchmark {wildcards.benchmark} --kind {params.kind}"
        " --prompts {input.prompts}l --generations {input.generations}l --judge {params.judge:q}"
        " --output {output} 2> {log}"


rule score_judged:
    input:
        prompts=f"{RESULTS}/prompts/{{benchmark}}.json",
        generations=f"{CELL}/generations/{{benchmark}}.json",
        verdicts=f"{CELL}/verdicts/{{benchmark}}.jsonl",
    output:
        f"{CELL}/scores/{{benchmark}}.json",
    log:
        f"{LOGS}/score_judged/{{policy}}-{{seed}}-{{benchmark}}.log",
    wildcard_constraints:
        policy=ANYONE,
        seed=r"\d+",
        benchmark=benchmarks_of(*JUDGED),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=lambda wildcards: code_of(
            f"workflow_scripts.score.{STUDY.benchmarks[wildcards.benchmark].kind}"
        ),
        kind=lambda wildcards: STUDY.benchmarks[wildcards.benchmark].kind,
        settings=lambda wildcards: as_json({"benchmark": wildcards.benchmark}),
    message:
        "Scoring the verdicts on {wildcards.policy} (seed {wildcards.seed}), {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.score.{params.kind} --prompts {input.prompts}l --generations {input.generations}l"
        " --verdicts {input.verdicts} --settings {params.settings:q} --output {output} 2> {log}"
