# Preference pairs from a policy's own mistakes on its preference split.


rule build_pairs:
    input:
        prompts=f"{RESULTS}/prompts/pairs-{{pairs}}.json",
        generations=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/generations/pairs-{{pairs}}.json",
    output:
        f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
    log:
        f"{LOGS}/build_pairs/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(STUDY.pairs),
        policy=one_of(POLICIES),
        seed=r"\d+",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.build"),
        settings=lambda wildcards: settings(
            STUDY.datasets[STUDY.pairs[wildcards.pairs].dataset], keys=["reply_format"]
        ),
        folder=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}",
    message:
        "Pairs {wildcards.pairs} from the mistakes of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        "python -m workflow_scripts.pairs.build --prompts {input.prompts}l --generations {input.generations}l"
        " --settings {params.settings:q} --output {params.folder}/pairs.jsonl"
        " --rejected {params.folder}/rejected.jsonl --manifest {output} > {log} 2>&1"
