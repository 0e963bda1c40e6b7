# What the parent says about the pairs, once; then one policy per alignment method.


rule score_reference:
    input:
        pairs=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
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
        pairs=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/pairs.jsonl",
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
        policy=one_of(policies_by("align")),
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
        code=lambda wildcards: code_of(
            f"workflow_scripts.align.{run_of(wildcards.policy).method}"
        ),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: settings(
            run_of(wildcards.policy),
            drop=["parent", "pairs", "method", "threads", "max_tokens"],
            trust_remote_code=remote_code(wildcards.policy),
        ),
        method=lambda wildcards: run_of(wildcards.policy).method,
        parent=parent_weights,
        reference=reference_folder,
        cost=f"{RESULTS}/costs/train_aligned/{{policy}}-{{seed}}.json",
    message:
        "Aligning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.align.{params.method} --parent {params.parent}/model --parent-manifest {input.parent}"
        " --reference {params.reference}/rows.parquet --reference-manifest {input.reference}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        f" --work {WORK}/train/{{wildcards.policy}}-{{wildcards.seed}}"
        f" --output {RESULTS}/policies/{{wildcards.policy}}/seed-{{wildcards.seed}}/model"
        " --manifest {output.manifest} --curve {output.curve} --cost {params.cost} > {log} 2>&1"
