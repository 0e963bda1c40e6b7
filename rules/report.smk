# Item scores to the tables, the figures and the HTML report. of_table(): over the seeds that the study has in the end.

# Of a study that names its seeds the command is without the word.
SEEDS_FLAG = " --seeds {input.seeds:q}" if growing.grows(PLAN) else ""
SEALED_SEEDS = " {input.seeds:q}" if growing.grows(PLAN) else ""


rule index_scores:
    input:
        of_table(growing.seeds_file),
    output:
        f"{RESULTS}/scores.json",
    log:
        LAYOUT.log("index_scores"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.index"),
        entries=of_table(index.index_entries),
    message:
        "Listing the score files of {NAME}"
    shell:
        "python -m workflow_scripts.report.index --output {output:q} 2> {log:q} <<< {params.entries:q}"


rule record_provenance:
    input:
        scores=of_table(index.score_files),
        overlap=overlap.overlap_files(PLAN),
        index=f"{RESULTS}/scores.json",
        accepted=ACCEPTED,
    output:
        f"{RESULTS}/provenance.json",
    log:
        LAYOUT.log("record_provenance"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.provenance"),
        settings=of_table(index.provenance_settings),
    message:
        "Recording where the scores of {NAME} come from"
    shell:
        "python -m workflow_scripts.report.provenance --index {input.index:q} --settings {params.settings:q}"
        " --accepted {input.accepted:q}"
        " --output {output:q} 2> {log:q}"


rule build_table:
    input:
        scores=of_table(index.score_files),
        generations=of_table(index.answer_files),
        index=f"{RESULTS}/scores.json",
        provenance=f"{RESULTS}/provenance.json",
        overlap=overlap.overlap_files(PLAN),
        chosen=of_table(index.chosen_policies),
        seeds=of_table(growing.seeds_file),
    output:
        table=report(
            f"{RESULTS}/results.csv",
            caption="../report/results.rst",
            category="Results",
        ),
        full=f"{RESULTS}/results_full.csv",
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
        LAYOUT.log("build_table"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of(
            "workflow_scripts.report.table", "workflow_scripts.report.provenance"
        ),
        settings=by(tables.table_settings),
    message:
        "Building the results table of {NAME}"
    shell:
        "python -m workflow_scripts.report.table --index {input.index:q} --provenance {input.provenance:q}"
        " --settings {params.settings:q} --output {output.table:q} --full {output.full:q} --wide {output.wide:q}"
        " --markdown {output.markdown:q}"
        f" --latex {{output.latex:q}} --overlap-output {{output.overlap:q}}{SEEDS_FLAG} 2> {{log:q}} &&"
        " python -m workflow_scripts.report.provenance --tables {output.table:q} {output.full:q} {output.wide:q} {output.markdown:q}"
        f" {{output.latex:q}} {{output.overlap:q}} {{input.provenance:q}} {{input.index:q}}{SEALED_SEEDS}"
        " --output {output.seal:q} 2>> {log:q}"


# Sources whose rows are to be written before policies can answer. A look at the disk: what judge_plan counts, which
# asks nothing, depends on it.
WAITING = [
    name
    for name in synthesis.used(PLAN)
    if not os.path.exists(sources.source_manifest(PLAN, name))
]


# Answers that an endpoint has yet to give, or to rank for a training: what a judge would make of them, or of policies
# that learn from them, cannot be counted.
UNASKED = [
    cell
    for cell in outside.asked_cells(PLAN)
    if not os.path.exists(LAYOUT.answers(*cell))
] + [
    cell
    for cell in judging.ranked_cells(PLAN)
    if not os.path.exists(LAYOUT.verdicts(*cell))
]


# `make judge-plan`: what the judges would be asked, and at most for how much. Nothing is asked. No output: the store
# may hold more than at the last look, so it is counted anew each time.
rule judge_plan:
    input:
        [plan["file"] for plan in judging.judging_plans(PLAN, WAITING, UNASKED)],
    log:
        LAYOUT.log("judge_plan"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        settings=by(judging.judging_plans_settings, waiting=WAITING, unasked=UNASKED),
    message:
        "What judging {NAME} takes"
    shell:
        f"python -m workflow_scripts.report.judging --settings - --output {RESULTS}/judging.csv <<< {{params.settings:q}}"
        " | tee {log:q}"


# Costs differ from run to run, so nothing but the page reads them.
rule gather_costs:
    input:
        of_table(index.score_files),
    output:
        f"{RESULTS}/costs.csv",
    log:
        LAYOUT.log("gather_costs"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.costs"),
        settings=of_table(costs.cost_settings),
    message:
        "Gathering what {NAME} cost"
    shell:
        "python -m workflow_scripts.report.costs --settings - --output {output:q} 2> {log:q} <<< {params.settings:q}"


rule compare_judges:
    input:
        of_table(judging.agreement_files),
    output:
        f"{RESULTS}/judges.csv",
    log:
        LAYOUT.log("compare_judges"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.agreement"),
        settings=of_table(judging.agreement_settings),
    message:
        "Comparing the judges of {NAME}"
    shell:
        "python -m workflow_scripts.report.agreement --settings - --output {output:q} 2> {log:q} <<< {params.settings:q}"


rule summarise_training:
    input:
        of_table(tables.training_files),
    output:
        report(
            f"{RESULTS}/training.csv",
            caption="../report/training.rst",
            category="Training",
        ),
    log:
        LAYOUT.log("summarise_training"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.training"),
        settings=of_table(tables.trainings_settings),
    message:
        "Summing up the trainings of {NAME}"
    shell:
        "python -m workflow_scripts.report.training --settings {params.settings:q} --output {output:q} > {log:q} 2>&1"


rule draw_loss_curves:
    input:
        of_table(tables.curve_files),
    output:
        report(
            f"{RESULTS}/figures/loss_curves.svg",
            caption="../report/loss_curves.rst",
            category="Training",
        ),
    log:
        LAYOUT.log("draw_loss_curves"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.figures"),
        settings=of_table(tables.curves_settings),
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
        LAYOUT.log("draw_policy_bars"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.figures"),
        settings=by(tables.bars_settings),
    message:
        "Drawing the policies side by side"
    shell:
        "python -m workflow_scripts.report.figures policy_bars --results {input:q} --settings {params.settings:q}"
        " --output {output:q} 2> {log:q}"


rule draw_rewards:
    input:
        tables.reward_manifests(PLAN),
    output:
        report(
            f"{RESULTS}/figures/rewards.svg",
            caption="../report/rewards.rst",
            category="Rewards",
        ),
    log:
        LAYOUT.log("draw_rewards"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.figures"),
        settings="{}",
        rows=tables.reward_rows(PLAN),
    message:
        "Drawing the reward distributions"
    shell:
        "python -m workflow_scripts.report.figures reward_histogram --annotations {params.rows:q} --settings {params.settings:q}"
        " --output {output:q} 2> {log:q}"


rule render_report:
    input:
        index=f"{RESULTS}/scores.json",
        results=f"{RESULTS}/results_full.csv",
        overlap=f"{RESULTS}/overlap.csv",
        costs=f"{RESULTS}/costs.csv",
        provenance=f"{RESULTS}/provenance.json",
        training=f"{RESULTS}/training.csv" if PLAN.trained() else [],
        agreement=f"{RESULTS}/judges.csv" if judging.agreement_files(PLAN) else [],
        curves=of_table(tables.curve_files),
        rewards=tables.reward_manifests(PLAN),
        data=list(tables.data_manifests(PLAN).values()),
        page=tables.page_files(),
        seeds=of_table(growing.seeds_file),
    output:
        f"{RESULTS}/report.html",
    log:
        LAYOUT.log("render_report"),
    localrule: True
    conda:
        "../envs/plumbline.yaml"
    params:
        code=code_of("workflow_scripts.report.page"),
        settings=of_table(tables.page_settings, files=STUDY_FILES),
        flags=lambda wildcards, input: words.flag_words(
            {
                f"--{name}": input[name] or None
                for name in ("training", "agreement", "seeds")
            }
        ),
    message:
        "Rendering the report of {NAME}"
    shell:
        "python -m workflow_scripts.report.page --index {input.index:q} --results {input.results:q} --overlap {input.overlap:q}"
        " --costs {input.costs:q} --provenance {input.provenance:q} {params.flags:q} --settings - --output {output:q}"
        " 2> {log:q} <<< {params.settings:q}"
