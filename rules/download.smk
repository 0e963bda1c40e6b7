# Raw files by pin, and base models converted once. Shared by all studies that pin the same.


rule fetch_source:
    input:
        by(sources.local_files),
    output:
        manifest=f"{layout.SOURCES}/{{source}}/manifest.json",
        files=directory(f"{layout.SOURCES}/{{source}}/files"),
    log:
        LAYOUT.log("fetch_source", "{source}"),
    wildcard_constraints:
        source=one_of(sources.fetched(PLAN)),
    cache: STORED
    priority: 90
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.download.fetch"),
        name=by(sources.source_name),
        settings=by(sources.source_settings),
    message:
        "Fetching {wildcards.source}"
    shell:
        "python -m workflow_scripts.download.fetch --name {params.name:q} --settings {params.settings:q}"
        " --output {output.files:q} --manifest {output.manifest:q}"
        " --work work/downloads/{wildcards.source:q} 2> {log:q}"


rule simulate_source:
    input:
        by(sources.simulated_problems),
    output:
        manifest=f"{layout.SOURCES}/{{source}}/manifest.json",
        files=directory(f"{layout.SOURCES}/{{source}}/files"),
    log:
        LAYOUT.log("simulate_source", "{source}"),
    wildcard_constraints:
        source=one_of(sources.simulated(PLAN)),
    cache: STORED
    priority: 90
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=by(sources.simulator_code),
        simulator=by(sources.simulator),
        settings=by(sources.simulation_settings),
    message:
        "Simulating source {wildcards.source} over {input}"
    shell:
        "python -m workflow_scripts.download.{params.simulator:q} --problems {input:q} --settings {params.settings:q}"
        " --output {output.files:q} --manifest {output.manifest:q} 2> {log:q}"


rule convert_source:
    input:
        weights=by(sources.converted_weights),
        base=by(sources.converted_base),
    output:
        manifest=f"{layout.SOURCES}/{{source}}/manifest.json",
        files=directory(f"{layout.SOURCES}/{{source}}/files"),
    log:
        LAYOUT.log("convert_source", "{source}"),
    wildcard_constraints:
        source=one_of(sources.converted(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.download.convert_critic"),
        pins=pins("h5py", "safetensors"),
        settings=by(sources.conversion_settings),
    message:
        "Converting source {wildcards.source}"
    shell:
        'python -m workflow_scripts.download.convert_critic --source "$(dirname {input.weights:q})/files"'
        ' --base "$(dirname {input.base:q})/files" --settings {params.settings:q}'
        " --output {output.files:q} --manifest {output.manifest:q} 2> {log:q}"


rule prepare_model:
    input:
        by(sources.model_source),
    output:
        manifest=f"{layout.MODELS}/{{model}}/manifest.json",
        model=directory(f"{layout.MODELS}/{{model}}/model"),
    log:
        LAYOUT.log("prepare_model", "{model}"),
    wildcard_constraints:
        model=one_of(sources.models(PLAN)),
    cache: STORED
    priority: 90
    conda:
        "../envs/train.yaml"
    params:
        code=code_of("workflow_scripts.download.prepare_model"),
        settings=by(sources.model_settings),
    message:
        "Preparing base model {wildcards.model}"
    shell:
        'python -m workflow_scripts.download.prepare_model --source "$(dirname {input:q})/files" --settings {params.settings:q}'
        " --output {output.model:q} --manifest {output.manifest:q} 2> {log:q}"


rule prepare_tasks:
    input:
        by(sources.package_source),
    output:
        f"{layout.TASKS}/{{package}}/manifest.json",
    log:
        LAYOUT.log("prepare_tasks", "{package}"),
    wildcard_constraints:
        package=one_of(sources.packages(PLAN)),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.download.harness_tasks"),
        pins=pins("lm-eval", "datasets"),
        package=by(sources.package_file),
    message:
        "Writing the task files of {wildcards.package}"
    shell:
        "python -m workflow_scripts.download.harness_tasks --package {params.package:q}"
        ' --output "$(dirname {output:q})" --manifest {output:q} > {log:q} 2>&1'
