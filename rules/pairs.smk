# Preference pairs: from a policy's own mistakes on its preference split, or from answers that came ranked.


rule build_pairs:
    input:
        prompts=f"{RESULTS}/prompts/pairs-{{pairs}}.json",
        generations=f"{RESULTS}/policies/{{policy}}/seed-{{seed}}/generations/pairs-{{pairs}}.json",
    output:
        manifest=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/manifest.json",
        pairs=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/pairs.jsonl",
        ranked=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/ranked.jsonl",
        rejected=f"{RESULTS}/pairs/{{pairs}}/{{policy}}/seed-{{seed}}/rejected.jsonl",
    log:
        f"{LOGS}/build_pairs/{{pairs}}-{{policy}}-{{seed}}.log",
    wildcard_constraints:
        pairs=one_of(name.removeprefix("pairs-") for name in PAIR_SETS),
        policy=one_of(POLICIES),
        seed=r"\d+",
    cache: STORED
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
    message:
        "Pairs {wildcards.pairs} from the mistakes of {wildcards.policy} (seed {wildcards.seed})"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.pairs.build --prompts {input.prompts:q}l --generations {input.generations:q}l"
        " --settings {params.settings:q} --output {output.pairs:q} --ranked {output.ranked:q}"
        " --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"


rule rank_answers:
    input:
        lambda wildcards: f"{RESULTS}/annotations/{STUDY.pairs[wildcards.pairs].annotation}/manifest.json",
    output:
        manifest=f"{RESULTS}/pairs/{{pairs}}/manifest.json",
        pairs=f"{RESULTS}/pairs/{{pairs}}/pairs.jsonl",
        ranked=f"{RESULTS}/pairs/{{pairs}}/ranked.jsonl",
        rejected=f"{RESULTS}/pairs/{{pairs}}/rejected.jsonl",
    log:
        f"{LOGS}/rank_answers/{{pairs}}.log",
    wildcard_constraints:
        pairs=one_of(
            name for name, part in STUDY.pairs.items() if isinstance(part, RankedPairs)
        ),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.pairs.ranked"),
        settings=lambda wildcards: settings(STUDY.pairs[wildcards.pairs], keys=["by"]),
        rows=lambda wildcards: in_shell(annotated_rows(STUDY.pairs[wildcards.pairs])),
    message:
        "Pairs {wildcards.pairs} from ranked answers"
    shell:
        f"{UNLESS_DIVERGED}"
        "python -m workflow_scripts.pairs.ranked --annotated {params.rows:u} --settings {params.settings:q}"
        " --output {output.pairs:q} --ranked {output.ranked:q}"
        " --rejected {output.rejected:q} --manifest {output.manifest:q} > {log:q} 2>&1"
