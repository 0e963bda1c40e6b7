# Tokens with labels, then supervised fine-tuning: a policy from its parent.


rule tokenise_dataset:
    input:
        dataset=lambda wildcards: f"{CLEAN}/{run_of(wildcards.policy).dataset}/manifest.json",
        model=lambda wildcards: f"data/models/{model_key(POLICIES[wildcards.policy].model)}/manifest.json",
    output:
        manifest=f"{RESULTS}/tokens/{{policy}}/manifest.json",
        rows=directory(f"{RESULTS}/tokens/{{policy}}/rows"),
    log:
        f"{LOGS}/tokenise_dataset/{{policy}}.log",
    wildcard_constraints:
        policy=one_of(policies_by("sft")),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.sft.tokenise"),
        pins=pins(*TORCH),
        settings=lambda wildcards: settings(
            run_of(wildcards.policy),
            keys=["max_tokens", "overflow", "objective", "im_mask"],
            template=template_of(wildcards.policy),
            history_turns=STUDY.datasets[
                run_of(wildcards.policy).dataset
            ].history_turns,
        ),
        splits=lambda wildcards: [
            in_shell(f"{name}={clean_rows(run_of(wildcards.policy).dataset, split)}")
            for name, split in (
                ("train", run_of(wildcards.policy).split),
                ("validation", run_of(wildcards.policy).validation),
            )
        ],
    message:
        "Tokenising for {wildcards.policy}"
    shell:
        "python -m workflow_scripts.sft.tokenise --splits {params.splits:u}"
        ' --tokenizer "$(dirname {input.model:q})/model" --settings {params.settings:q}'
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule train_sft:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        tokens=f"{RESULTS}/tokens/{{policy}}/manifest.json",
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
        model=directory(f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/model"),
    log:
        f"{LOGS}/train_sft/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by("sft")),
        seed=r"\d+",
    cache: STORED
    priority: 90  # everything else waits for it
    conda:
        "../envs/train.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        **TRAINING,
    params:
        code=code_of("workflow_scripts.sft.train"),
        pins=pins(*TRAINERS),
        settings=lambda wildcards: training_settings(
            wildcards,
            drop=[
                "dataset",
                "split",
                "validation",
                "template",
                "backend",
                "max_tokens",
                "overflow",
                "objective",
                "im_mask",
            ],
        ),
    message:
        "Fine-tuning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_ANCESTOR_DIVERGED}{LAUNCH_POLICY} -- workflow_scripts.sft.train"
        ' --tokens "$(dirname {input.tokens:q})/rows" --tokens-manifest {input.tokens:q}'
        f" {POLICY_FLAGS} --cost $RESULTS/costs/train_sft/{{wildcards.policy:q}}-{{wildcards.seed:q}}.json"
        " > {log:q} 2>&1"
