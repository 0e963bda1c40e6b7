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
        entries=lambda wildcards: index_entries(),
    message:
        "Listing the score files of {NAME}"
    shell:
        "python -m workflow_scripts.report.index --output {output:q} 2> {log:q} <<< {params.entries:q}"


rule record_provenance:
    input:
        scores=SCORES,
        overlap=OVERLAPS,
        index=rules.index_scores.output,
    output:
        f"{RESULTS}/provenance.json",
    log:
        f"{LOGS}/record_provenance.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.provenance"),
        settings=lambda wildcards: as_json(
            {"facts": {"study": STUDY_DIGEST, "lock": LOCK}}
        ),
    message:
        "Recording where the scores of {NAME} come from"
    shell:
        "python -m workflow_scripts.report.provenance --index {input.index:q} --settings {params.settings:q}"
        " --output {output:q} 2> {log:q}"


rule build_table:
    input:
        scores=SCORES,
        generations=GENERATIONS,
        index=rules.index_scores.output,
        provenance=rules.record_provenance.output,
        overlap=OVERLAPS,
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
        latex=f"{RESULTS}/results.tex",
        overlap=f"{RESULTS}/overlap.csv",
        seal=f"{RESULTS}/tables.json",
    log:
        f"{LOGS}/build_table.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of(
            "workflow_scripts.report.table", "workflow_scripts.report.provenance"
        ),
        settings=lambda wildcards: settings(
            STUDY.report,
            keys=["baseline", "draws", "confidence", "bars", "published"],
            study=NAME,
            seed=STUDY.seeds[0],
        ),
    message:
        "Building the results table of {NAME}"
    shell:
        "python -m workflow_scripts.report.table --index {input.index:q} --provenance {input.provenance:q}"
        " --settings {params.settings:q} --output {output.table:q} --wide {output.wide:q} --markdown {output.markdown:q}"
        " --latex {output.latex:q} --overlap-output {output.overlap:q} 2> {log:q} &&"
        " python -m workflow_scripts.report.provenance --tables {output.table:q} {output.wide:q} {output.markdown:q}"
        " {output.latex:q} {output.overlap:q} {input.provenance:q} {input.index:q} --output {output.seal:q} 2>> {log:q}"


# `make judge-plan`: what the judges would be asked, and at most for how much. Nothing is asked. No output: the store
# may hold more than at the last look, so it is counted anew each time.
rule judge_plan:
    input:
        [plan["file"] for plan in judging_plans()],
    log:
        f"{LOGS}/judge_plan.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        settings=lambda wildcards: as_json({"plans": judging_plans()}),
    message:
        "What judging {NAME} takes"
    shell:
        f"python -m workflow_scripts.report.judging --settings - --output {RESULTS}/judging.csv <<< {{params.settings:q}}"
        " | tee {log:q}"


# Costs differ from run to run, so nothing but the page reads them.
rule gather_costs:
    input:
        SCORES,
    output:
        f"{RESULTS}/costs.csv",
    log:
        f"{LOGS}/gather_costs.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.costs"),
        settings=lambda wildcards: as_json({"files": cost_entries()}),
    message:
        "Gathering what {NAME} cost"
    shell:
        "python -m workflow_scripts.report.costs --settings - --output {output:q} 2> {log:q} <<< {params.settings:q}"


rule compare_judges:
    input:
        [entry["file"] for pair in agreement_pairs() for entry in pair],
    output:
        f"{RESULTS}/judges.csv",
    log:
        f"{LOGS}/compare_judges.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.agreement"),
        settings=lambda wildcards: as_json(
            {
                "pairs": agreement_pairs(),
                "seed": STUDY.seeds[0],
                "confidence": STUDY.report.confidence,
            }
        ),
    message:
        "Comparing the judges of {NAME}"
    shell:
        "python -m workflow_scripts.report.agreement --settings - --output {output:q} 2> {log:q} <<< {params.settings:q}"


rule summarise_training:
    input:
        [run["curve"] for run in TRAININGS],
        [run["manifest"] for run in TRAININGS],
        [run["learned_from"] for run in TRAININGS],
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
        settings=lambda wildcards: as_json({"runs": TRAININGS}),
    message:
        "Summing up the trainings of {NAME}"
    shell:
        "python -m workflow_scripts.report.training --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"


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
        settings=lambda wildcards: as_json({"curves": CURVES}),
    message:
        "Drawing the loss curves"
    shell:
        "python -m workflow_scripts.report.figures loss_curves --settings {params.settings:q} --output {output:q} 2> {log:q}"


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
        settings=lambda wildcards: as_json(
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
        "python -m workflow_scripts.report.figures policy_bars --results {input:q} --settings {params.settings:q}"
        " --output {output:q} 2> {log:q}"


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
        settings=lambda wildcards: as_json({}),
        rows=[
            f"{RESULTS}/annotations/{name}/rows/{split}.jsonl"
            for name, part in STUDY.annotations.items()
            for split in part.splits
        ],
    message:
        "Drawing the reward distributions"
    shell:
        "python -m workflow_scripts.report.figures reward_histogram --annotations {params.rows:q} --settings {params.settings:q}"
        " --output {output:q} 2> {log:q}"


rule render_report:
    input:
        index=rules.index_scores.output,
        results=f"{RESULTS}/results.csv",
        overlap=f"{RESULTS}/overlap.csv",
        costs=f"{RESULTS}/costs.csv",
        provenance=f"{RESULTS}/provenance.json",
        training=f"{RESULTS}/training.csv" if TRAINED else [],
        agreement=f"{RESULTS}/judges.csv" if STUDY.report.agreement else [],
        curves=[curve["file"] for curve in CURVES],
        rewards=[
            f"{RESULTS}/annotations/{name}/manifest.json" for name in STUDY.annotations
        ],
        data=[f"{CLEAN}/{name}/manifest.json" for name in LEARNED],
        page=sorted(str(path) for path in Path("report").glob("page.*")),
    output:
        f"{RESULTS}/report.html",
    log:
        f"{LOGS}/render_report.log",
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.page"),
        settings=lambda wildcards: page_settings(),
        flags=lambda wildcards, input: flag_words(
            {f"--{name}": input[name] or None for name in ("training", "agreement")}
        ),
    message:
        "Rendering the report of {NAME}"
    shell:
        "python -m workflow_scripts.report.page --index {input.index:q} --results {input.results:q} --overlap {input.overlap:q}"
        " --costs {input.costs:q} --provenance {input.provenance:q} {params.flags:q} --settings - --output {output:q}"
        " 2> {log:q} <<< {params.settings:q}"
