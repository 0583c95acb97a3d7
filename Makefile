# The two commands that matter: `make fit` and `make test`. Both set up all they need in .venv.
# Another task, or files of experiments/ on top: `make fit TASK=PickCube-v1 WITH=setting/bf16.yaml`.
PYTHON ?= python3
TASK ?= PushCube-v1
COMPARED := $(if $(filter command environment,$(firstword $(origin TASK))),$(TASK),PushPull)
DEMOS ?= 200
BIN := .venv/bin
CONTROL_PickCube-v1 := pd_ee_delta_pos
CONTROL_StackCube-v1 := pd_ee_delta_pose
MIXED_PushPull := PushCube-v1 PullCube-v1
# $2 where the caller has named $1, which has a default.
GIVEN = $(if $(filter command environment,$(firstword $(origin $1))),$2)

# Without a file of its own a task would be played by the settings of PushCube-v1.
ifneq ($(filter fit compare,$(or $(MAKECMDGOALS),fit)),)
ifeq ($(wildcard experiments/task/$(TASK).yaml)$(filter PushCube-v1,$(TASK)),)
$(error there is no experiments/task/$(TASK).yaml: write one, as the files there do)
endif
endif
demos = $(patsubst %,data/maniskill/%.h5,$(or $(MIXED_$1),$1))
configs = $(foreach file,maniskill.yaml $(patsubst experiments/%,%,$(wildcard experiments/task/$1.yaml)) $(WITH),--config experiments/$(file))
CHECKPOINT = $$(ls -t runs/$(TASK)/lightning_logs/*/checkpoints/last.ckpt | head -n 1)

SUITE ?= libero_spatial libero_object libero_goal libero_10
EPISODES ?= 50
LIBERO_TASKS ?= [0,1,6]
TASKS ?= [0,1,2,3,4,5,6,7,8,9]
PARALLEL ?= 2
CONFIG ?= experiments/libero.yaml
PLAY := --data.init_args.episodes.init_args
space := $(subst ,, )
comma := ,

.PHONY: always fit compare compare-libero test lint types install renderer libero check-libero fit-libero eval-libero clean

fit: install renderer $(call demos,$(TASK))  ## demos, training, evaluation in the simulator
	$(BIN)/lightning fit $(call configs,$(TASK))
	$(BIN)/lightning test $(call configs,$(TASK)) --ckpt_path $(CHECKPOINT)

# A file that is there is left alone, unless DEMOS asks for more than it holds: then it is extended.
data/maniskill/%.h5: $(call GIVEN,DEMOS,always) | install renderer
	$(BIN)/e0 collect maniskill --task $* --episodes $(DEMOS) --out $@ \
	  --control_mode $(or $(CONTROL_$*),pd_joint_pos)

# $1 describes the benchmark, $2 names its folder.
side-by-side = $(BIN)/e0 compare $1 --out runs/compare/$2$(if $(BUDGET),-$(BUDGET)) \
  $(if $(BUDGET),--steps $(BUDGET)) $(call GIVEN,EPISODES,--episodes $(EPISODES)) \
  --parallel $(PARALLEL) $(if $(ONLY),--only '[$(ONLY)]')

compare: install renderer $(call demos,$(COMPARED))  ## [TASK=PushPull] [BUDGET=steps] [EPISODES=n] [PARALLEL=2] [ONLY=E0,argmax]
	$(call side-by-side,$(call configs,$(COMPARED)),$(COMPARED))

compare-libero: libero  ## the policies on three tasks of LIBERO [BUDGET=steps] [EPISODES=n] [PARALLEL=2] [ONLY=E0,Regression]
	$(BIN)/e0 collect libero --suite libero_object --tasks '$(LIBERO_TASKS)'
	$(call side-by-side,--config experiments/libero.yaml $(WITH:%=--config experiments/%) \
	  --tables '[experiments/compare/policies.yaml]',libero_object)

fit-libero: libero  ## demos of the scripted expert, training and evaluation on three tasks of LIBERO
	$(BIN)/e0 collect libero --suite libero_object --tasks '$(LIBERO_TASKS)'
	$(BIN)/lightning fit --config experiments/libero.yaml $(WITH:%=--config experiments/%)
	$(MAKE) eval-libero CKPT="$$(ls -t runs/libero/lightning_logs/*/checkpoints/last.ckpt | head -n 1)" \
	  CONFIG="experiments/libero.yaml $(WITH:%=experiments/%)" \
	  SUITE=libero_object TASKS='$(LIBERO_TASKS)'

eval-libero: libero  ## CKPT=… [CONFIG="files it was trained with"] [SUITE="libero_object …"] [EPISODES=50] [TASKS=[0,1]] [CAMERA='{azimuth: [-15, 0, 15]}']
	@test -n "$(CKPT)" || { echo "say which policy: make eval-libero CKPT=path/to/last.ckpt"; exit 1; }
	$(BIN)/lightning test $(foreach file,$(CONFIG),--config $(file)) --ckpt_path "$(CKPT)" \
	  $(PLAY).suites '[$(subst $(space),$(comma),$(strip $(SUITE)))]' $(PLAY).tasks '$(TASKS)' \
	  $(PLAY).num_episodes $(EPISODES) $(if $(CAMERA),$(PLAY).camera_offset '$(CAMERA)')

check-libero: libero  ## build, reset, step and draw all tasks of LIBERO, with a table of times
	$(BIN)/python -m e0_lightning.benchmarks.libero

# Parts of Mesa must be of one version: where `renderer` has added the backports, all come from there.
BACKPORTS = $$(apt-cache policy | grep -q n=bookworm-backports && echo -t bookworm-backports)
OFFSCREEN = from e0_lightning.envs.mujoco_gl import offscreen; offscreen()

libero: .venv/libero  ## LIBERO's simulator; its assets come from $$LIBERO_ASSETS or the hub
	@$(BIN)/python -c "$(OFFSCREEN)" > /dev/null 2>&1 || [ "$$(id -u)" != 0 ] || \
	  { apt-get update && apt-get install -y $(BACKPORTS) libegl1 libgl1 libosmesa6 libglib2.0-0; }
	@$(BIN)/python -c "$(OFFSCREEN)"

.venv/libero: pyproject.toml .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[libero-lean]'
	$(BIN)/python -m pip install --quiet --no-deps hf-libero==0.1.4
	@touch $@

# Tests play LIBERO where its assets are at hand: what LIBERO_ASSETS names, or an archive beside the
# checkout. Elsewhere they are skipped and say so. Tests of a file share what it sets up.
LIBERO_AT_HAND := $(if $(or $(LIBERO_ASSETS),$(wildcard ../shared/libero/assets.tar.xz)),libero)

test: install renderer $(LIBERO_AT_HAND)  ## the test suite, simulators included
	$(BIN)/pytest -n 2 --dist loadfile

lint: install
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests

types: install
	$(BIN)/mypy

install: .venv/installed

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "ManiSkill's planner needs Python 3.11 or 3.12, $(PYTHON) is another: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || { \
	  [ "$$(id -u)" = 0 ] && apt-get update && apt-get install -y python3-venv; } || \
	  { echo "$(PYTHON) has no venv module; as root: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[maniskill,compare,dev]'
	@touch $@

DEVICE = from e0_lightning.envs.vulkan import check; check()

renderer: install  ## a Vulkan device for the simulator: the graphics card's, or Mesa's in software
	@$(BIN)/python -c "$(DEVICE)" > /dev/null 2>&1 || [ "$$(id -u)" != 0 ] || { $(MESA); }
	@$(BIN)/python -c "$(DEVICE)"

# Debian 12's Mesa is too old to render off screen, its backports are not: they are added beside
# the archive that apt already uses.
MESA = apt-get update; SUITE=; \
	if grep -q '^VERSION_CODENAME=bookworm' /etc/os-release; then \
	  SUITE='-t bookworm-backports'; \
	  ARCHIVE=$$(apt-get indextargets --format '$$(REPO_URI)' 'Codename: bookworm' | head -n 1); \
	  echo "deb $$ARCHIVE bookworm-backports main" > /etc/apt/sources.list.d/backports.list; \
	  apt-get update; \
	fi; \
	apt-get install -y $$SUITE mesa-vulkan-drivers libvulkan1 libgl1 libglib2.0-0

clean:
	rm -rf .venv runs
