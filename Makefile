# The two commands that matter: `make fit` and `make test`. Both set up all they need in .venv.
PYTHON ?= python3
TASK ?= PushCube-v1
DEMOS ?= 200
BIN := .venv/bin
CHECKPOINT := runs/maniskill/checkpoints/last.ckpt

.PHONY: fit test lint types install renderer clean

fit: install renderer data/maniskill/$(TASK).h5  ## demos, training, evaluation in the simulator
	$(BIN)/lightning fit --config experiments/maniskill.yaml
	$(BIN)/lightning test --config experiments/maniskill.yaml --ckpt_path $(CHECKPOINT)

data/maniskill/%.h5:
	$(BIN)/e0 collect maniskill --task $* --episodes $(DEMOS) --out $@

test: install renderer  ## the test suite, simulator included
	$(BIN)/pytest

lint: install
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests

types: install
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "e0-lightning needs Python 3.11 or newer, $(PYTHON) is older: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { $(call as_root,sh -c "apt-get update && apt-get install -y python3-venv"); }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[maniskill,dev]'
	@touch $@

renderer: install  ## a Vulkan device for the simulator: the graphics card's, or Mesa's in software
	@$(BIN)/python -m e0_lightning.simulation.renderer > /dev/null 2>&1 || { $(MESA); }
	@$(BIN)/python -m e0_lightning.simulation.renderer

# Debian 12's Mesa is too old to render off screen, its backports are not: they are added beside
# the archive that apt already uses. SOURCES is that archive's address.
SOURCES = $$(apt-get indextargets --format '$$(REPO_URI)' 'Release: bookworm' | head -n 1)
MESA = if grep -q 'VERSION_ID="12"' /etc/os-release && grep -q ID=debian /etc/os-release; then \
	  $(call as_root,sh -c "echo deb $(SOURCES) bookworm-backports main > /etc/apt/sources.list.d/backports.list \
	    && apt-get update && apt-get install -y -t bookworm-backports mesa-vulkan-drivers libvulkan1"); \
	else $(call as_root,sh -c "apt-get update && apt-get install -y mesa-vulkan-drivers libvulkan1"); fi

# Run as root where we may; elsewhere say what to run.
as_root = if [ "$$(id -u)" = 0 ]; then $(1); else echo 'Not root. Please run, as root: $(1)'; exit 1; fi

clean:
	rm -rf .venv runs
