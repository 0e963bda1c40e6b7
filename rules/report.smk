# Item scores to the tables, the figures and the HTML report.


rule index_scores:
    output:
        f"{RESULTS}/scores.json",
    log:
        f"{LOGS}/index_scores.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.index"),
        entries=as_json(index_entries()),
    message:
        "Listing the score files of {NAME}"
    shell:
        "python -m workflow_scripts.report.index --output {output} 2> {log} <<< {params.entries:q}"


rule build_table:
    input:
        scores=SCORES,
        index=rules.index_scores.output,
    output:
        table=report(
            f"{RESULTS}/results.csv",
            caption="../report/results.rst",
            category="Results",
        ),
        wide=report(
            f"{RESULTS}/policies.csv",
            caption="../report/policies.rst",
            category="Results",
        ),
        markdown=f"{RESULTS}/results.md",
    log:
        f"{LOGS}/build_table.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.table"),
        settings=settings(
            STUDY.report,
            keys=["baseline", "draws", "confidence", "bars"],
            study=NAME,
            seed=STUDY.seeds[0],
        ),
    message:
        "Building the results table of {NAME}"
    shell:
        "python -m workflow_scripts.report.table --index {input.index} --settings {params.settings:q}"
        " --output {output.table} --wide {output.wide} --markdown {output.markdown} 2> {log}"


rule summarise_training:
    input:
        [run["curve"] for run in TRAININGS],
        [run["manifest"] for run in TRAININGS],
    output:
        report(
            f"{RESULTS}/training.csv",
            caption="../report/training.rst",
            category="Training",
        ),
    log:
        f"{LOGS}/summarise_training.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.training"),
        settings=as_json({"runs": TRAININGS}),
    message:
        "Summing up the trainings of {NAME}"
    shell:
        "python -m workflow_scripts.report.training --settings {params.settings:q} --output {output} > {log} 2>&1"


rule draw_loss_curves:
    input:
        [curve["file"] for curve in CURVES],
    output:
        report(
            f"{RESULTS}/figures/loss_curves.svg",
            caption="../report/loss_curves.rst",
            category="Training",
        ),
    log:
        f"{LOGS}/draw_loss_curves.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.figures"),
        settings=as_json({"curves": CURVES}),
    message:
        "Drawing the loss curves"
    shell:
        "python -m workflow_scripts.report.figures loss_curves --settings {params.settings:q} --output {output} 2> {log}"


rule draw_policy_bars:
    input:
        f"{RESULTS}/results.csv",
    output:
        report(
            f"{RESULTS}/figures/policy_bars.svg",
            caption="../report/policy_bars.rst",
            category="Results",
        ),
    log:
        f"{LOGS}/draw_policy_bars.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.figures"),
        settings=as_json(
            {
                "cells": [
                    f"{bar.benchmark}/{bar.subset}/{bar.metric}"
                    for bar in STUDY.report.bars
                ]
            }
        ),
    message:
        "Drawing the policies side by side"
    shell:
        "python -m workflow_scripts.report.figures policy_bars --results {input} --settings {params.settings:q}"
        " --output {output} 2> {log}"


rule draw_rewards:
    input:
        [f"{RESULTS}/annotations/{name}/manifest.json" for name in STUDY.annotations],
    output:
        report(
            f"{RESULTS}/figures/rewards.svg",
            caption="../report/rewards.rst",
            category="Rewards",
        ),
    log:
        f"{LOGS}/draw_rewards.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.figures"),
        settings=as_json({}),
        rows=[
            f"{RESULTS}/annotations/{name}/rows/{split}.jsonl"
            for name, part in STUDY.annotations.items()
            for split in part.splits
        ],
    message:
        "Drawing the reward distributions"
    shell:
        "python -m workflow_scripts.report.figures reward_histogram --annotations {params.rows} --settings {params.settings:q}"
        " --output {output} 2> {log}"


# Snakemake writes its own report from the finished files; the inner call plans and runs nothing else.
rule render_report:
    input:
        table=f"{RESULTS}/results.csv",
        wide=f"{RESULTS}/policies.csv",
        figures=FIGURES,
        training=[f"{RESULTS}/training.csv"] if TRAINED else [],
    output:
        page=f"{RESULTS}/report.html",
        study=f"{RESULTS}/study.json",
    log:
        f"{LOGS}/render_report.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.index"),
        captions={
            path.name: digest(path.read_text())
            for path in sorted(Path("report").glob("*.rst"))
        },
        study=lambda wildcards: as_json(STUDY),  # a function: its text has braces
    message:
        "Rendering the report of {NAME}"
    shell:
        "python -m workflow_scripts.report.index --output {output.study} 2> {log} <<< {params.study:q} &&"
        " python -m snakemake {input.table} {input.wide} {input.figures} {input.training} --nolock --cores 1"
        " --snakefile $PLUMBLINE/Snakefile --configfile {output.study} --report {output.page} >> {log} 2>&1"
