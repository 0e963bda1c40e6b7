# What the parent says about pairs or rewarded answers, once; then one policy per method.


rule score_reference:
    input:
        pairs=lambda wildcards: f"{pairs_folder(**wildcards)}/manifest.json",
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        manifest=f"{RESULTS}/reference/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
        rows=f"{RESULTS}/reference/{{pairs}}/{{policy}}/seed-{{seed}}/rows.parquet",
        rejected=f"{RESULTS}/reference/{{pairs}}/{{policy}}/seed-{{seed}}/rejected.jsonl",
    log:
        f"{LOGS}/score_reference/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
    params:
        code=code_of("workflow_scripts.align.pair_reference"),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: settings(
            STUDY.pairs[wildcards.pairs],
            keys=["max_prompt_tokens", "max_tokens"],
            batch_size=16,
            template=template_of(wildcards.policy),
            precision=STUDY.engine.precision,
            trust_remote_code=remote_code(wildcards.policy),
        ),
    message:
        "Reference log-probs of {wildcards.policy} (seed {wildcards.seed}) on pairs {wildcards.pairs}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/score_reference/{{wildcards.pairs:q}}-{{wildcards.policy:q}}-{{wildcards.seed:q}}.json --"
        ' workflow_scripts.align.pair_reference --parent "$(dirname {input.parent:q})/model"'
        ' --pairs "$(dirname {input.pairs:q})/pairs.jsonl" --settings {params.settings:q}'
        " --output {output.rows:q} --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule train_aligned:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        reference=lambda wildcards: f"{reference_folder(wildcards)}/manifest.json",
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
        model=directory(f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/model"),
    log:
        f"{LOGS}/train_aligned/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by(*PAIR_METHODS)),
        seed=r"\d+",
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        **TRAINING,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(wildcards, drop=["pairs"]),
        module=method_module,
    message:
        "Aligning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        ' --reference "$(dirname {input.reference:q})/rows.parquet" --reference-manifest {input.reference:q}'
        f" {POLICY_FLAGS} --cost $RESULTS/costs/train_aligned/{{wildcards.policy:q}}-{{wildcards.seed:q}}.json"
        " > {log:q} 2>&1"


rule tokenise_ranked:
    input:
        pairs=lambda wildcards: f"{pairs_folder(**wildcards)}/manifest.json",
        model=lambda wildcards: f"data/models/{model_key(POLICIES[wildcards.policy].model)}/manifest.json",
    output:
        manifest=f"{RESULTS}/ranked/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
        rows=f"{RESULTS}/ranked/{{pairs}}/{{policy}}/seed-{{seed}}/rows.parquet",
        rejected=f"{RESULTS}/ranked/{{pairs}}/{{policy}}/seed-{{seed}}/rejected.jsonl",
    log:
        f"{LOGS}/tokenise_ranked/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.align.tokenise_ranked"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            STUDY.pairs[wildcards.pairs],
            keys=["max_prompt_tokens", "max_tokens"],
            template=template_of(wildcards.policy),
        ),
    message:
        "Tokenising the ranked answers of {wildcards.pairs} for {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}"
        'python -m workflow_scripts.align.tokenise_ranked --ranked "$(dirname {input.pairs:q})/ranked.jsonl"'
        ' --parent "$(dirname {input.model:q})/model" --settings {params.settings:q}'
        " --output {output.rows:q} --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule train_ranked:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        ranked=lambda wildcards: f"{ranked_folder(wildcards)}/manifest.json",
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
        model=directory(f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/model"),
    log:
        f"{LOGS}/train_ranked/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by("pro")),
        seed=r"\d+",
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        **TRAINING,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(wildcards, drop=["pairs"]),
        module=method_module,
    message:
        "Ranking {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        ' --ranked "$(dirname {input.ranked:q})/rows.parquet" --ranked-manifest {input.ranked:q}'
        f" {POLICY_FLAGS} --cost $RESULTS/costs/train_ranked/{{wildcards.policy:q}}-{{wildcards.seed:q}}.json"
        " > {log:q} 2>&1"


rule score_rewarded:
    input:
        annotation=lambda wildcards: f"{RESULTS}/annotations/{REWARDED_OF[wildcards.rewarded].annotation}/manifest.json",
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        manifest=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/manifest.json",
        rows=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/rows.parquet",
        rejected=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/rejected.jsonl",
    log:
        f"{LOGS}/score_rewarded/{{rewarded}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        rewarded=one_of(REWARDED_OF),
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
    params:
        code=code_of("workflow_scripts.align.rewarded_reference"),
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
        rows=lambda wildcards: in_shell(annotated_rows(REWARDED_OF[wildcards.rewarded])),
    message:
        "Reference log-probs of {wildcards.policy} (seed {wildcards.seed}) on rewarded answers {wildcards.rewarded}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/score_rewarded/{{wildcards.rewarded:q}}-{{wildcards.policy:q}}-{{wildcards.seed:q}}.json --"
        ' workflow_scripts.align.rewarded_reference --parent "$(dirname {input.parent:q})/model" --annotated {params.rows:u}'
        " --settings {params.settings:q} --output {output.rows:q} --rejected {output.rejected:q}"
        " --manifest {output.manifest:q} > {log:q} 2>&1"


rule fit_value:
    input:
        rows=value_rows_manifest,
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        manifest=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/curve.json",
        head=directory(f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/head"),
    log:
        f"{LOGS}/fit_value/{{value}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        value=one_of(STUDY.values),
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
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
        rows=lambda wildcards: in_shell(value_rows(wildcards)),
    message:
        "Fitting value head {wildcards.value} on {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/fit_value/{{wildcards.value:q}}-{{wildcards.policy:q}}-{{wildcards.seed:q}}.json --"
        ' workflow_scripts.align.fit_value --parent "$(dirname {input.parent:q})/model" --annotated {params.rows:u}'
        " --settings {params.settings:q} --seed {params.seed:q} --output {output.head:q}"
        " --manifest {output.manifest:q} --curve {output.curve:q} --note-divergence > {log:q} 2>&1"


rule estimate_advantages:
    input:
        head=f"{RESULTS}/values/{{value}}/{{policy}}/seed-{{seed}}/manifest.json",
        rewarded=f"{RESULTS}/rewarded/{{rewarded}}/{{policy}}/seed-{{seed}}/manifest.json",
        parent=lambda wildcards: f"{weights_folder(wildcards.policy, wildcards.seed)}/manifest.json",
    output:
        manifest=f"{RESULTS}/advantages/{{rewarded}}/{{value}}/{{policy}}/seed-{{seed}}/manifest.json",
        advantages=f"{RESULTS}/advantages/{{rewarded}}/{{value}}/{{policy}}/seed-{{seed}}/advantages.jsonl",
    log:
        f"{LOGS}/estimate_advantages/{{rewarded}}-{{value}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        rewarded=one_of(REWARDED_OF),
        value=one_of(STUDY.values),
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
    priority: 80
    conda:
        "../envs/train.yaml"
    threads: STUDY.generation_resources.cpus
    resources:
        **READING,
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
    message:
        "Advantages over {wildcards.policy} (seed {wildcards.seed}) on {wildcards.rewarded}"
    shell:
        f"{UNLESS_DIVERGED}{LAUNCH} --cost $RESULTS/costs/estimate_advantages/{{wildcards.rewarded:q}}-{{wildcards.value:q}}-{{wildcards.policy:q}}-{{wildcards.seed:q}}.json --"
        ' workflow_scripts.align.advantages --parent "$(dirname {input.parent:q})/model" --head "$(dirname {input.head:q})/head"'
        ' --rewarded "$(dirname {input.rewarded:q})/rows.parquet" --settings {params.settings:q}'
        " --output {output.advantages:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule train_offline:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        rewarded=lambda wildcards: f"{rewarded_folder(wildcards)}/manifest.json",
        advantages=advantages_manifest,
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
        model=directory(f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/model"),
    log:
        f"{LOGS}/train_offline/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by(*OFFLINE_METHODS)),
        seed=r"\d+",
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        **TRAINING,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(
            wildcards, drop=[*REWARDED, "value"]
        ),
        module=method_module,
        advantages=lambda wildcards: in_shell(advantages_flags(wildcards)),
    message:
        "Training {wildcards.policy} (seed {wildcards.seed}) on rewarded answers"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        ' --rewarded "$(dirname {input.rewarded:q})/rows.parquet" --rewarded-manifest {input.rewarded:q} {params.advantages:u}'
        f" {POLICY_FLAGS} --cost $RESULTS/costs/train_offline/{{wildcards.policy:q}}-{{wildcards.seed:q}}.json"
        " > {log:q} 2>&1"


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
        model=directory(f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/model"),
    log:
        f"{LOGS}/train_online/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by(*ONLINE_METHODS)),
        seed=r"\d+",
    cache: STORED
    priority: 70
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        **ONLINE,
    params:
        code=lambda wildcards: code_of(method_module(wildcards)),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(
            wildcards,
            drop=["annotation", "split"],
            template=template_of(POLICIES[wildcards.policy].parent),
        ),
        module=method_module,
        rewards=lambda wildcards: reward_settings(run_of(wildcards.policy).annotation),
        fit_rows=lambda wildcards: in_shell(
            fit_rows(run_of(wildcards.policy).annotation)
        ),
    message:
        "Training {wildcards.policy} (seed {wildcards.seed}) on its own rewarded answers"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- {{params.module:q}}"
        " --prompts {input.prompts:q}l --prompts-manifest {input.prompts:q} --rewards {params.rewards:q}"
        " --fit-rows {params.fit_rows:u}"
        f" {POLICY_FLAGS} --cost $RESULTS/costs/train_online/{{wildcards.policy:q}}-{{wildcards.seed:q}}.json"
        " > {log:q} 2>&1"
