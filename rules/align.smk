# What the parent says about pairs or rewarded answers, once; then one policy per method.


rule score_reference:
    input:
        pairs=lambda wildcards: f"{pairs_folder(**wildcards)}/manifest.json",
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        f"{RESULTS}/reference/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
    log:
        f"{LOGS}/score_reference/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(POLICIES),
        seed=r"\d+",
    priority: 80
    conda:
        "../envs/plumbline.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.align.reference"),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: settings(
            STUDY.pairs[wildcards.pairs],
            keys=["max_prompt_tokens", "max_tokens"],
            batch_size=16,
            template=template_of(wildcards.policy),
            precision=STUDY.engine.precision,
            trust_remote_code=remote_code(wildcards.policy),
        ),
        parent=lambda wildcards: weights_folder(wildcards.policy, wildcards.seed),
        pairs=lambda wildcards: f"{pairs_folder(**wildcards)}/pairs.jsonl",
        folder=f"{RESULTS}/reference/{{pairs}}/{{policy}}/seed-{{seed}}",
    message:
        "Reference log-probs of {wildcards.policy} (seed {wildcards.seed}) on pairs {wildcards.pairs}"
    shell:
        "python -m workflow_scripts.align.reference --parent {params.parent}/model --pairs {params.pairs}"
        " --settings {params.settings:q} --output {params.folder}/rows.parquet"
        " --rejected {params.folder}/rejected.jsonl --manifest {output} > {log} 2>&1"


rule train_aligned:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        reference=lambda wildcards: f"{reference_folder(wildcards)}/manifest.json",
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
    log:
        f"{LOGS}/train_aligned/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by(*PAIR_METHODS)),
        seed=r"\d+",
    priority: 70
    conda:
        "../envs/plumbline.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        gpu=STUDY.training_resources.gpu,
        mem_mb=STUDY.training_resources.mem_mb,
        runtime=STUDY.training_resources.runtime_minutes,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(wildcards, drop=["pairs"]),
        module=method_module,
        parent=parent_weights,
        reference=reference_folder,
        cost=f"{RESULTS}/costs/train_aligned/{{policy}}-{{seed}}.json",
    message:
        "Aligning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m {params.module} --parent {params.parent}/model --parent-manifest {input.parent}"
        " --reference {params.reference}/rows.parquet --reference-manifest {input.reference}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        f" --work {WORK}/train/{{wildcards.policy}}-{{wildcards.seed}}"
        f" --output {RESULTS}/policies/{{wildcards.policy}}/seed-{{wildcards.seed}}/model"
        " --manifest {output.manifest} --curve {output.curve} --cost {params.cost} > {log} 2>&1"


rule tokenise_ranked:
    input:
        pairs=lambda wildcards: f"{pairs_folder(**wildcards)}/manifest.json",
        model=lambda wildcards: f"data/models/{model_key(POLICIES[wildcards.policy].model)}/manifest.json",
    output:
        f"{RESULTS}/ranked/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
    log:
        f"{LOGS}/tokenise_ranked/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(POLICIES),
        seed=r"\d+",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.align.ranked"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.pairs[wildcards.pairs],
            keys=["max_prompt_tokens", "max_tokens"],
            template=template_of(wildcards.policy),
        ),
        model=lambda wildcards: f"data/models/{model_key(POLICIES[wildcards.policy].model)}",
        pairs=lambda wildcards: f"{pairs_folder(**wildcards)}/ranked.jsonl",
        folder=f"{RESULTS}/ranked/{{pairs}}/{{policy}}/seed-{{seed}}",
    message:
        "Tokenising the ranked answers of {wildcards.pairs} for {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.align.ranked --ranked {params.pairs} --parent {params.model}/model"
        " --settings {params.settings:q} --output {params.folder}/rows.parquet"
        " --rejected {params.folder}/rejected.jsonl --manifest {output} > {log} 2>&1"


rule train_ranked:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        ranked=lambda wildcards: f"{ranked_folder(wildcards)}/manifest.json",
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
    log:
        f"{LOGS}/train_ranked/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by("pro")),
        seed=r"\d+",
    priority: 70
    conda:
        "../envs/plumbline.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        gpu=STUDY.training_resources.gpu,
        mem_mb=STUDY.training_resources.mem_mb,
        runtime=STUDY.training_resources.runtime_minutes,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(wildcards, drop=["pairs"]),
        module=method_module,
        parent=parent_weights,
        ranked=ranked_folder,
        cost=f"{RESULTS}/costs/train_ranked/{{policy}}-{{seed}}.json",
    message:
        "Ranking {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m {params.module} --parent {params.parent}/model --parent-manifest {input.parent}"
        " --ranked {params.ranked}/rows.parquet --ranked-manifest {input.ranked}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        f" --work {WORK}/train/{{wildcards.policy}}-{{wildcards.seed}}"
        f" --output {RESULTS}/policies/{{wildcards.policy}}/seed-{{wildcards.seed}}/model"
        " --manifest {output.manifest} --curve {output.curve} --cost {params.cost} > {log} 2>&1"


rule score_rewarded:
    input:
        annotation=lambda wildcards: f"{RESULTS}/annotations/{REWARDED_OF[wildcards.rewarded].annotation}/manifest.json",
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/manifest.json",
    log:
        f"{LOGS}/score_rewarded/{{rewarded}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        rewarded=one_of(REWARDED_OF),
        policy=one_of(POLICIES),
        seed=r"\d+",
    priority: 80
    conda:
        "../envs/plumbline.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.align.rewarded"),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: settings(
            REWARDED_OF[wildcards.rewarded],
            keys=["max_prompt_tokens", "max_tokens"],
            batch_size=16,
            history_turns=history_of(REWARDED_OF[wildcards.rewarded].annotation),
            template=template_of(wildcards.policy),
            precision=STUDY.engine.precision,
            trust_remote_code=remote_code(wildcards.policy),
        ),
        parent=lambda wildcards: weights_folder(wildcards.policy, wildcards.seed),
        rows=lambda wildcards: annotated_rows(REWARDED_OF[wildcards.rewarded]),
        folder=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}",
    message:
        "Reference log-probs of {wildcards.policy} (seed {wildcards.seed}) on rewarded answers {wildcards.rewarded}"
    shell:
        "python -m workflow_scripts.align.rewarded --parent {params.parent}/model --annotated {params.rows}"
        " --settings {params.settings:q} --output {params.folder}/rows.parquet"
        " --rejected {params.folder}/rejected.jsonl --manifest {output} > {log} 2>&1"


rule fit_value:
    input:
        rows=value_rows_manifest,
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        manifest=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/curve.json",
    log:
        f"{LOGS}/fit_value/{{value}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        value=one_of(STUDY.values),
        policy=one_of(POLICIES),
        seed=r"\d+",
    priority: 80
    conda:
        "../envs/plumbline.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.align.fit_value"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.values[wildcards.value],
            keys=[
                "max_value",
                "heads",
                "dropout",
                "learning_rate",
                "epochs",
                "held_out",
                "max_prompt_tokens",
            ],
            batch_size=STUDY.values[wildcards.value].fit_batch,
            history_turns=history_of(STUDY.values[wildcards.value].annotation),
            template=template_of(wildcards.policy),
            precision=STUDY.engine.precision,
            trust_remote_code=remote_code(wildcards.policy),
        ),
        seed=lambda wildcards: STUDY.values[wildcards.value].seed,
        parent=lambda wildcards: weights_folder(wildcards.policy, wildcards.seed),
        rows=value_rows,
        folder=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}",
    message:
        "Fitting value head {wildcards.value} on {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.align.fit_value --parent {params.parent}/model --annotated {params.rows}"
        " --settings {params.settings:q} --seed {params.seed} --output {params.folder}/head"
        " --manifest {output.manifest} --curve {output.curve} > {log} 2>&1"


rule estimate_advantages:
    input:
        head=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/manifest.json",
        rewarded=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/manifest.json",
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        f"{RESULTS}/advantages/{{rewarded}}/{{value}}/{{policy}}/seed-{{seed}}/manifest.json",
    log:
        f"{LOGS}/estimate_advantages/{{rewarded}}-{{value}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        rewarded=one_of(REWARDED_OF),
        value=one_of(STUDY.values),
        policy=one_of(POLICIES),
        seed=r"\d+",
    priority: 80
    conda:
        "../envs/plumbline.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        gpu=STUDY.generation_resources.gpu,
        mem_mb=STUDY.generation_resources.mem_mb,
        runtime=STUDY.generation_resources.runtime_minutes,
    params:
        code=code_of("workflow_scripts.align.advantages"),
        pins=pins(*TORCH),
        settings=lambda wildcards: as_json(
            {
                "batch_size": 16,
                "precision": STUDY.engine.precision,
                "trust_remote_code": remote_code(wildcards.policy),
            }
        ),
        parent=lambda wildcards: weights_folder(wildcards.policy, wildcards.seed),
        head=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/head",
        rows=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/rows.parquet",
        folder=f"{RESULTS}/advantages/{{rewarded}}/{{value}}/{{policy}}/seed-{{seed}}",
    message:
        "Advantages over {wildcards.policy} (seed {wildcards.seed}) on {wildcards.rewarded}"
    shell:
        "python -m workflow_scripts.align.advantages --parent {params.parent}/model --head {params.head}"
        " --rewarded {params.rows} --settings {params.settings:q} --output {params.folder}/advantages.jsonl"
        " --manifest {output} > {log} 2>&1"


rule train_offline:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        rewarded=lambda wildcards: f"{rewarded_folder(wildcards)}/manifest.json",
        advantages=advantages_manifest,
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
    log:
        f"{LOGS}/train_offline/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by(*OFFLINE_METHODS)),
        seed=r"\d+",
    priority: 70
    conda:
        "../envs/plumbline.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        gpu=STUDY.training_resources.gpu,
        mem_mb=STUDY.training_resources.mem_mb,
        runtime=STUDY.training_resources.runtime_minutes,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(
            wildcards, drop=[*REWARDED, "value"]
        ),
        module=method_module,
        parent=parent_weights,
        rewarded=rewarded_folder,
        advantages=advantages_flags,
        cost=f"{RESULTS}/costs/train_offline/{{policy}}-{{seed}}.json",
    message:
        "Training {wildcards.policy} (seed {wildcards.seed}) on rewarded answers"
    shell:
        "python -m {params.module} --parent {params.parent}/model --parent-manifest {input.parent}"
        " --rewarded {params.rewarded}/rows.parquet --rewarded-manifest {input.rewarded} {params.advantages}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        f" --work {WORK}/train/{{wildcards.policy}}-{{wildcards.seed}}"
        f" --output {RESULTS}/policies/{{wildcards.policy}}/seed-{{wildcards.seed}}/model"
        " --manifest {output.manifest} --curve {output.curve} --cost {params.cost} > {log} 2>&1"


rule train_online:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        prompts=lambda wildcards: prompts_manifest(
            f"runs-{POLICIES[wildcards.policy].run}"
        ),
        rewards=lambda wildcards: reward_manifests(run_of(wildcards.policy).annotation),
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
    log:
        f"{LOGS}/train_online/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by(*ONLINE_METHODS)),
        seed=r"\d+",
    priority: 70
    conda:
        "../envs/plumbline.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        gpu=STUDY.training_resources.gpu,
        mem_mb=STUDY.training_resources.mem_mb,
        runtime=STUDY.training_resources.runtime_minutes,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(
            wildcards,
            drop=["annotation", "split"],
            template=template_of(POLICIES[wildcards.policy].parent),
        ),
        module=method_module,
        parent=parent_weights,
        rewards=lambda wildcards: reward_settings(run_of(wildcards.policy).annotation),
        fit_rows=lambda wildcards: fit_rows(run_of(wildcards.policy).annotation),
        cost=f"{RESULTS}/costs/train_online/{{policy}}-{{seed}}.json",
    message:
        "Training {wildcards.policy} (seed {wildcards.seed}) on its own rewarded answers"
    shell:
        "python -m {params.module} --parent {params.parent}/model --parent-manifest {input.parent}"
        " --prompts {input.prompts}l --prompts-manifest {input.prompts} --rewards {params.rewards:q}"
        " --fit-rows {params.fit_rows}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        f" --work {WORK}/train/{{wildcards.policy}}-{{wildcards.seed}}"
        f" --output {RESULTS}/policies/{{wildcards.policy}}/seed-{{wildcards.seed}}/model"
        " --manifest {output.manifest} --curve {output.curve} --cost {params.cost} > {log} 2>&1"
