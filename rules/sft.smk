# Tokens with labels, then supervised fine-tuning: a policy from its parent.


rule tokenise_dataset:
    input:
        dataset=lambda wildcards: f"{CLEAN}/{run_of(wildcards.policy).dataset}/manifest.json",
        model=lambda wildcards: f"data/models/{model_key(POLICIES[wildcards.policy].model)}/manifest.json",
    output:
        f"{RESULTS}/tokens/{{policy}}/manifest.json",
    log:
        f"{LOGS}/tokenise_dataset/{{policy}}.log",
    wildcard_constraints:
        policy=one_of(policies_by("sft")),
    priority: 90
    conda:
        "../envs/plumbline.yaml"
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
            f"{name}={CLEAN}/{run_of(wildcards.policy).dataset}/rows/{split}.jsonl"
            for name, split in (
                ("train", run_of(wildcards.policy).split),
                ("validation", run_of(wildcards.policy).validation),
            )
        ],
        tokenizer=lambda wildcards: f"data/models/{model_key(POLICIES[wildcards.policy].model)}/model",
    message:
        "Tokenising for {wildcards.policy}"
    shell:
        "python -m workflow_scripts.sft.tokenise --splits {params.splits} --tokenizer {params.tokenizer}"
        " --settings {params.settings:q}"
        f" --output {RESULTS}/tokens/{{wildcards.policy}}/rows --manifest {{output}} 2> {{log}}"


rule train_sft:
    input:
        parent=lambda wildcards: f"{parent_weights(wildcards)}/manifest.json",
        tokens=f"{RESULTS}/tokens/{{policy}}/manifest.json",
    output:
        manifest=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/manifest.json",
        curve=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/curve.json",
    log:
        f"{LOGS}/train_sft/{{policy}}-{{seed}}.log",
    wildcard_constraints:
        policy=one_of(policies_by("sft")),
        seed=r"\d+",
    priority: 90  # everything else waits for it
    conda:
        "../envs/plumbline.yaml"
    threads: lambda wildcards: run_of(wildcards.policy).threads
    resources:
        gpu=STUDY.training_resources.gpu,
        mem_mb=STUDY.training_resources.mem_mb,
        runtime=STUDY.training_resources.runtime_minutes,
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
        parent=parent_weights,
        cost=f"{RESULTS}/costs/train_sft/{{policy}}-{{seed}}.json",
    message:
        "Fine-tuning {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.sft.train --parent {params.parent}/model --parent-manifest {input.parent}"
        f" --tokens {RESULTS}/tokens/{{wildcards.policy}}/rows --tokens-manifest {{input.tokens}}"
        " --settings {params.settings:q} --seed {wildcards.seed}"
        f" --work {WORK}/train/{{wildcards.policy}}-{{wildcards.seed}}"
        f" --output {RESULTS}/policies/{{wildcards.policy}}/seed-{{wildcards.seed}}/model"
        " --manifest {output.manifest} --curve {output.curve} --cost {params.cost} > {log} 2>&1"
