# make demo: set up, and run the whole workflow on the embedded demo.
# make model MODEL=folder-or-archive AUDIO=folder PLATFORM=rk3588 [RUNTIME=2.3.2] [NAME=...]: check all
#   that, set up, write the settings to NAME.yaml, and run the workflow with them. RUNTIME is the
#   version of the board's librknnrt, which chooses the toolkit.
# make toolkit [VERSION=2.2.0]: install a version of rknn-toolkit2 ahead; a run does so itself.
# make test: set up, and run the style checks and all tests but the long ones.
# make test-slow: the long ones: a cluster, the fault campaign, full-size builds.
# make docs: write the configuration reference again, from the schema, config.yaml and the workflow.
# make bench: set up, and measure what benchmarks/results.json holds; half an hour of an idle machine.
#   DIGITS: a folder of {digit}_{speaker}_{index}.wav to recognise; the demo's own audio without it.
# make coefficients BOARD=board.json [RESULTS=results]: fit the costs of layers on what the bundle of that run has
#   measured on a board (transcribe.py --benchmark), and print them as evaluation.board_costs.
# make faults: set up, and kill, damage and starve the workflow; writes benchmarks/faults.json; as root.

SUPPORTED := import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))
PYTHON ?= $(shell for name in python3.11 python3.12 python3; do \
    $$name -c '$(SUPPORTED)' >/dev/null 2>&1 && echo $$name && break; done)
CORES ?= $(shell nproc)
# The folder of this file: `make -f /path/to/zipquant/Makefile model ...` works in any other one.
HERE := $(dir $(lastword $(MAKEFILE_LIST)))
VENV := $(HERE).venv
BIN := $(VENV)/bin
PIP = $(BIN)/python -m pip --disable-pip-version-check

.PHONY: demo model python toolkit test test-slow lint docs bench coefficients faults clean

demo: $(VENV)/installed
	$(BIN)/snakemake $(if $(filter-out ./,$(HERE)),--snakefile $(HERE)Snakefile) --cores $(CORES)

model: python
	@$(PYTHON) $(HERE)scripts/quickstart.py check "$(MODEL)" "$(AUDIO)" "$(PLATFORM)" "$(NAME)" "$(RUNTIME)"
	@$(MAKE) --no-print-directory --file $(HERE)Makefile $(VENV)/installed
	@CORES=$(CORES) $(BIN)/python $(HERE)scripts/quickstart.py run "$(MODEL)" "$(AUDIO)" "$(PLATFORM)" "$(NAME)" "$(RUNTIME)"

# A line for each of the usual ways to get one, since a distribution may have none that fits.
python:
	@$(or $(PYTHON),false) -c '$(SUPPORTED)' >/dev/null 2>&1 || { echo "error: Zipquant needs Python 3.11 or 3.12$(if $(PYTHON), and PYTHON=$(PYTHON) is none): uv python install 3.11, or conda create -n zipquant python=3.11, and then make $(MAKECMDGOALS) PYTHON=/path/to/python3.11" >&2; exit 1; }

toolkit: $(VENV)/installed
	PYTHONPATH=$(HERE)scripts $(BIN)/python -m zipquant.toolkit.environment $(VERSION)

coefficients: $(VENV)/installed
	$(BIN)/python $(HERE)benchmarks/coefficients.py "$(BOARD)" --results "$(or $(RESULTS),results)"

# These are about the workflow's own folder, wherever they are called.
ifneq ($(filter-out ./,$(HERE)),)
test test-slow lint docs bench faults:
	@$(MAKE) --no-print-directory --directory $(HERE) $@
else
test: $(VENV)/tests toolkit lint
	$(BIN)/python -m pytest -m "not slow" --numprocesses $(CORES) --durations 20

test-slow: $(VENV)/tests toolkit
	$(BIN)/python -m pytest -m slow --durations 20

lint: $(VENV)/tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/snakefmt --check Snakefile rules
	PYTHONPATH=scripts $(BIN)/lint-imports
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python .ci/lint_workflow.py

docs: $(VENV)/installed
	$(BIN)/python docs/make_configuration.py

bench: $(VENV)/installed toolkit
	$(BIN)/python benchmarks/traces.py
	$(BIN)/python benchmarks/scale.py
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/recognition.py --record \
	    $(if $(DIGITS),--digits $(DIGITS),--audio demo/audio/evaluation.tsv)

faults: $(VENV)/tests toolkit
	$(BIN)/python benchmarks/faults
endif

clean:
	rm -rf $(VENV) results .snakemake

# PyTorch comes first and with its own dependencies, which differ between its builds. uv knows where the
# CPU builds are, which may be out of reach; what pip finds may be a CUDA build of gigabytes.
$(VENV)/installed: $(HERE)envs/requirements.txt | python
	@test ! -L $(VENV) || { echo "error: .venv is a link to another environment, which would be emptied: remove the link" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@echo "installing PyTorch and 90 other packages, about 450 MB to download; once"
	$(PIP) install --quiet --constraint $< uv
	$(BIN)/uv pip install --python $(BIN)/python --torch-backend cpu --constraint $< torch || \
	    { echo "uv cannot reach PyTorch's CPU builds: installing the build that pip finds"; \
	    $(PIP) install --constraint $< torch; }
	$(PIP) install --no-deps --requirement $<
	touch $@

$(VENV)/tests: $(HERE)envs/requirements-tests.txt $(VENV)/installed
	$(PIP) install --no-deps --requirement $<
	touch $@
