# Raw files to canonical rows, split by group; every dropped row or turn is counted.


rule clean_dataset:
    input:
        source=lambda wildcards: f"{source_folder(STUDY.datasets[wildcards.dataset].source)}/manifest.json",
        held_out=lambda wildcards: [
            f"{CLEAN}/{name.split('/')[0]}/manifest.json"
            for name in STUDY.datasets[wildcards.dataset].exclude_groups_of
        ],
    output:
        manifest=f"{CLEAN}/{{dataset}}/manifest.json",
        rows=directory(f"{CLEAN}/{{dataset}}/rows"),
    log:
        f"{LOGS}/clean_dataset/{{dataset}}.log",
    wildcard_constraints:
        dataset=one_of(STUDY.datasets),
    cache: STORED
    priority: 90
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.clean"),
        settings=lambda wildcards: settings(
            STUDY.datasets[wildcards.dataset],
            drop=["source", "files", "history_turns", "exclude_groups_of"],
            exclude_groups_of=[
                with_folders(clean_rows(*name.split("/")))
                for name in STUDY.datasets[wildcards.dataset].exclude_groups_of
            ],
        ),
        files=lambda wildcards: raw_files(
            STUDY.datasets[wildcards.dataset].source,
            STUDY.datasets[wildcards.dataset].files,
        ),
    message:
        "Cleaning dataset {wildcards.dataset}"
    shell:
        "python -m workflow_scripts.clean.clean --inputs {params.files:q} --settings {params.settings:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"


rule clean_reply_pairs:
    input:
        lambda wildcards: f"{source_folder(STUDY.benchmarks[wildcards.benchmark].source)}/manifest.json",
    output:
        manifest=f"{CLEAN}/{{benchmark}}/manifest.json",
        rows=directory(f"{CLEAN}/{{benchmark}}/rows"),
    log:
        f"{LOGS}/clean_reply_pairs/{{benchmark}}.log",
    wildcard_constraints:
        benchmark=one_of(
            name
            for name, part in STUDY.benchmarks.items()
            if part.kind == "pair_perplexity"
        ),
    cache: STORED
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.clean.reply_pairs"),
        settings=lambda wildcards: settings(
            STUDY.benchmarks[wildcards.benchmark],
            keys=["system_prompt", "reply_format", "drop_fields", "replace_na"],
        ),
        files=lambda wildcards: raw_files(
            STUDY.benchmarks[wildcards.benchmark].source,
            [STUDY.benchmarks[wildcards.benchmark].file],
        ),
    message:
        "Cleaning the reply pairs of {wildcards.benchmark}"
    shell:
        "python -m workflow_scripts.clean.reply_pairs --inputs {params.files:q} --settings {params.settings:q}"
        " --output {output.rows:q} --manifest {output.manifest:q} 2> {log:q}"
