# Preference pairs: from a policy's own mistakes on its preference split, or from answers that came ranked.


rule build_pairs:
    input:
        prompts=f"{RESULTS}/prompts/pairs-{{pairs}}.json",
        generations=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/generations/pairs-{{pairs}}.json",
    output:
        f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
    log:
        f"{LOGS}/build_pairs/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(name.removeprefix("pairs-") for name in PAIR_SETS),
        policy=one_of(POLICIES),
        seed=r"\d+",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.build"),
        settings=lambda wildcards: settings(
            STUDY.datasets[STUDY.pairs[wildcards.pairs].dataset],
            keys=["reply_format"],
            validation_share=STUDY.pairs[wildcards.pairs].validation_share,
            seed=STUDY.seeds[0],
        ),
        folder=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}",
    message:
        "Pairs {wildcards.pairs} from the mistakes of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.pairs.build --prompts {input.prompts}l --generations {input.generations}l"
        " --settings {params.settings:q} --output {params.folder}/pairs.jsonl --ranked {params.folder}/ranked.jsonl"
        " --rejected {params.folder}/rejected.jsonl --manifest {output} > {log} 2>&1"


rule rank_answers:
    input:
        lambda wildcards: f"{RESULTS}/annotations/{STUDY.pairs[wildcards.pairs].annotation}/manifest.json",
    output:
        f"{RESULTS}/pairs/{{pairs}}/manifest.json",
    log:
        f"{LOGS}/rank_answers/{{pairs}}.log",
    wildcard_constraints:
        pairs=one_of(
            name for name, part in STUDY.pairs.items() if isinstance(part, RankedPairs)
        ),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.ranked"),
        settings=lambda wildcards: settings(STUDY.pairs[wildcards.pairs], keys=["by"]),
        rows=lambda wildcards: annotated_rows(STUDY.pairs[wildcards.pairs]),
        folder=f"{RESULTS}/pairs/{{pairs}}",
    message:
        "Pairs {wildcards.pairs} from ranked answers"
    shell:
        "python -m workflow_scripts.pairs.ranked --annotated {params.rows} --settings {params.settings:q}"
        " --output {params.folder}/pairs.jsonl --ranked {params.folder}/ranked.jsonl"
        " --rejected {params.folder}/rejected.jsonl --manifest {output} > {log} 2>&1"
