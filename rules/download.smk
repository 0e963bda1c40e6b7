# Raw files by pin, and base models converted once. Shared by all studies that pin the same.


rule fetch_source:
    output:
        manifest="data/sources/{source}/manifest.json",
        files=directory("data/sources/{source}/files"),
    log:
        f"{LOGS}/fetch_source/{{source}}.log",
    wildcard_constraints:
        source=one_of(FETCHED),
    cache: STORED
    priority: 90
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.download.fetch"),
        name=lambda wildcards: SOURCE_OF[wildcards.source],
        settings=lambda wildcards: source_settings(
            STUDY.sources[SOURCE_OF[wildcards.source]]
        ),
    message:
        "Fetching {wildcards.source}"
    shell:
        "python -m workflow_scripts.download.fetch --name {params.name:q} --settings {params.settings:q}"
        " --output {output.files:q} --manifest {output.manifest:q}"
        " --work work/downloads/{wildcards.source:q} 2> {log:q}"


rule simulate_source:
    input:
        lambda wildcards: STUDY.sources[SOURCE_OF[wildcards.source]].simulate.problems,
    output:
        manifest="data/sources/{source}/manifest.json",
        files=directory("data/sources/{source}/files"),
    log:
        f"{LOGS}/simulate_source/{{source}}.log",
    wildcard_constraints:
        source=one_of(SIMULATED),
    cache: STORED
    priority: 90
    conda:
        "../envs/plumbline.yaml"
    params:
        code=lambda wildcards: code_of(
            f"workflow_scripts.download.{simulator_of(wildcards)}"
        ),
        simulator=simulator_of,
        settings=lambda wildcards: settings(
            STUDY.sources[SOURCE_OF[wildcards.source]].simulate, drop=["problems"]
        ),
    message:
        "Simulating source {wildcards.source} over {input}"
    shell:
        "python -m workflow_scripts.download.{params.simulator:q} --problems {input:q} --settings {params.settings:q}"
        " --output {output.files:q} --manifest {output.manifest:q} 2> {log:q}"


rule prepare_model:
    input:
        lambda wildcards: f"{source_folder(STUDY.models[MODEL_OF[wildcards.model]].source)}/manifest.json",
    output:
        manifest="data/models/{model}/manifest.json",
        model=directory("data/models/{model}/model"),
    log:
        f"{LOGS}/prepare_model/{{model}}.log",
    wildcard_constraints:
        model=one_of(MODEL_OF),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.download.prepare_model"),
        settings=lambda wildcards: settings(
            STUDY.models[MODEL_OF[wildcards.model]],
            keys=["format", "weights", "tokenizer", "check"],
            template=all_templates(STUDY)[
                STUDY.models[MODEL_OF[wildcards.model]].template
            ],
        ),
    message:
        "Preparing base model {wildcards.model}"
    shell:
        'python -m workflow_scripts.download.prepare_model --source "$(dirname {input:q})/files" --settings {params.settings:q}'
        " --output {output.model:q} --manifest {output.manifest:q} 2> {log:q}"


rule prepare_tasks:
    input:
        lambda wildcards: f"{source_folder(PACKAGES[wildcards.package].source)}/manifest.json",
    output:
        "data/tasks/{package}/manifest.json",
    log:
        f"{LOGS}/prepare_tasks/{{package}}.log",
    wildcard_constraints:
        package=one_of(PACKAGES),
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.download.harness_tasks"),
        pins=pins("lm-eval", "datasets"),
        package=lambda wildcards: source_file(
            PACKAGES[wildcards.package].source,
            PACKAGES[wildcards.package].package_file,
        ),
    message:
        "Writing the task files of {wildcards.package}"
    shell:
        "python -m workflow_scripts.download.harness_tasks --package {params.package:q}"
        " --output data/tasks/{wildcards.package:q} --manifest {output:q} > {log:q} 2>&1"
