# make demo: set up, and run the whole workflow on the embedded demo.
# make model MODEL=folder-or-archive AUDIO=folder PLATFORM=rk3588 [NAME=...]: check all that, set up,
#   write the settings to NAME.yaml, and run the workflow with them.
# make test: set up, and run the style checks and all tests but the long ones.
# make test-slow: the long ones: a cluster, the fault campaign, full-size builds.
# make docs: write the configuration reference again, from the schema, config.yaml and the workflow.
# make bench: set up, and measure what benchmarks/results.json holds; half an hour of an idle machine.
#   DIGITS: a folder of {digit}_{speaker}_{index}.wav to recognise; the demo's own audio without it.
# make coefficients BOARD=board.json [RESULTS=results]: fit the costs of layers on what the bundle of that run has
#   measured on a board (transcribe.py --benchmark), and print them as evaluation.board_costs.
# make faults: set up, and kill, damage and starve the workflow; writes benchmarks/faults.json; as root.

PYTHON ?= python3.11
CORES ?= $(shell nproc)
BIN := .venv/bin

.PHONY: demo model test test-slow lint docs bench coefficients faults clean

demo: .venv/installed
	$(BIN)/snakemake --cores $(CORES)

model:
	@$(PYTHON) scripts/quickstart.py check "$(MODEL)" "$(AUDIO)" "$(PLATFORM)" "$(NAME)"
	@$(MAKE) --no-print-directory .venv/installed
	@CORES=$(CORES) $(BIN)/python scripts/quickstart.py run "$(MODEL)" "$(AUDIO)" "$(PLATFORM)" "$(NAME)"

test: .venv/installed lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(CORES) --durations 20

test-slow: .venv/installed
	$(BIN)/python -m pytest -m slow --durations 20

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	PYTHONPATH=scripts $(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/lint_workflow.py

docs: .venv/installed
	$(BIN)/python docs/make_configuration.py

bench: .venv/installed
	$(BIN)/python benchmarks/traces.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/recognition.py --record \
	    $(if $(DIGITS),--digits $(DIGITS),--audio demo/audio/evaluation.tsv)

coefficients: .venv/installed
	$(BIN)/python benchmarks/coefficients.py "$(BOARD)" --results "$(or $(RESULTS),results)"

faults: .venv/installed
	$(BIN)/python benchmarks/faults

clean:
	rm -rf .venv results .snakemake

# The toolkit is installed without its dependencies: it demands a PyTorch of 2024 that it does not
# need. PyTorch comes first and with its own, which differ between its CPU and CUDA builds.
.venv/installed: envs/requirements.txt
	@test ! -L .venv || { echo "error: .venv is a link to another environment, which would be emptied: remove the link" >&2; exit 1; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/pip install -qq --disable-pip-version-check --constraint $< torch
	$(BIN)/pip install -qq --disable-pip-version-check --no-deps --requirement $<
	touch $@
