import subprocess
import sys
from pathlib import Path

import fsspec
import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule, LightningModule, Trainer

from e0_lightning.data.datamodule import RobotDemos
from e0_lightning.data.sources import DemoSource
from e0_lightning.types import PolicySpec


def demos(*sources, **options):
    given = {"views": ["cam"], "state": ["qpos"], "horizon": 4, "batch_size": 6, "num_workers": 0}
    return RobotDemos(list(sources), **{**given, **options})


def test_batches_have_the_documented_shapes_and_types(real):
    module = demos(str(real), views=["base_camera"], batch_size=8, val_fraction=0.5)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    pixels = batch["images"]["base_camera"]
    assert (pixels.shape, pixels.dtype) == ((8, 3, 128, 128), torch.uint8)
    assert pixels.is_contiguous(memory_format=torch.channels_last)
    assert (batch["state"].shape, batch["state"].dtype) == ((8, 9), torch.float32)
    assert (batch["actions"].shape, batch["actions"].dtype) == ((8, 4, 8), torch.float32)
    assert (batch["valid"].shape, batch["valid"].dtype) == ((8, 4), torch.bool)
    assert batch["intrinsics"]["base_camera"].shape == (8, 3, 3)
    assert batch["instruction"] == ["push the cube to the target region"] * 8


def test_batches_have_the_history_that_the_spec_says(record):
    module = demos(record(steps=(12,) * 3), n_obs_steps=3, val_fraction=0.4)
    module.setup("fit")
    assert module.spec.n_obs_steps == 3
    for batch in (next(iter(module.train_dataloader())), next(iter(module.val_dataloader()[0]))):
        module.spec.check_observation(batch)
        past, steps = batch["history"]["images"]["cam"][:, :, 1, 0, 0], batch["step"][:, None]
        assert past.equal((steps - torch.tensor([2, 1])).clamp(min=0).to(torch.uint8))


def test_spec_is_read_from_headers(real):
    module = demos(str(real), views=["base_camera"], state=["qpos", "tcp_pose"])
    state = {"qpos": 9, "tcp_pose": 7}
    assert module.spec == PolicySpec({"base_camera": 128}, state, 8, "pd_joint_pos", 4)


def test_constructing_reads_nothing():
    assert demos("nowhere/at-all.h5").horizon == 4


def test_training_and_validation_share_no_demo(record):
    module = demos(record(steps=(5,) * 10), val_fraction=0.2)
    module.setup("fit")
    trained = torch.cat([batch["state"][:, 0] for batch in module.train_dataloader()])
    (loader,) = module.val_dataloader()
    held_out = torch.cat([batch["state"][:, 0] for batch in loader])
    assert (len(set(trained.tolist())), len(set(held_out.tolist())), len(held_out)) == (8, 2, 10)
    assert set(trained.tolist()).isdisjoint(held_out.tolist())
    assert len(module.predict_dataloader()) == len(loader)


def test_the_seed_of_the_run_decides_the_order(record, monkeypatch):
    path = record(steps=(5,) * 10)

    def first(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        return next(iter(demos(path, val_fraction=0).train_dataloader()))["state"].tolist()

    assert first("1") == first("1") != first("2")


def test_the_validation_split_does_not_depend_on_the_seed(record, monkeypatch):
    path = record(steps=(5,) * 10)

    def held_out(seed):
        monkeypatch.setenv("PL_GLOBAL_SEED", seed)
        return {demo.name for demo in demos(path, val_fraction=0.3).datasets[1].demos}

    assert held_out("1") == held_out("2")


def test_workers_read_every_sample_once(record):
    module = demos(record(steps=(6,) * 10), val_fraction=0, num_workers=2)
    loader = module.train_dataloader()
    for epoch in range(2):
        loader.sampler.set_epoch(epoch)
        samples = torch.cat([batch["state"] for batch in loader])
        assert sorted(map(tuple, samples.tolist())) == [(e, t) for e in range(10) for t in range(6)]


def test_loading_does_not_advance_the_global_generator(record):
    module = demos(record(), val_fraction=0)
    before = torch.get_rng_state()
    list(module.train_dataloader())
    assert torch.equal(torch.get_rng_state(), before)


def test_mixes_tasks_by_weight(record):
    push, pick = record("push.h5", first=0), record("pick.h5", first=50, task="PickCube-v1")
    mixture = [DemoSource(push, weight=1.0), DemoSource(pick, weight=3.0, instruction="take it")]
    batches = list(demos(*mixture, val_fraction=0, batch_size=8).train_dataloader())
    picked = torch.cat([batch["state"][:, 0] >= 50 for batch in batches])
    sentences = [sentence for batch in batches for sentence in batch["instruction"]]
    assert picked.float().mean() == pytest.approx(0.75, abs=0.06)
    expected = ["take it" if p else "push the cube to the target region" for p in picked]
    assert sentences == expected


def test_a_glob_pattern_matches_several_files(record, tmp_path):
    record("a.h5", first=0), record("b.h5", first=10)
    module = demos(str(tmp_path / "*.h5"), val_fraction=0)
    assert [Path(reader.path).name for _, reader in module.readers] == ["a.h5", "b.h5"]
    assert len(module.datasets[0]) == 48
    with pytest.raises(ValueError, match="no file matches"):
        demos(str(tmp_path / "*.hdf5")).setup("fit")


def test_reads_from_a_remote_file_system(record):
    path = Path(record())
    memory = fsspec.filesystem("memory")
    for suffix in (".h5", ".json"):
        memory.pipe(f"/mixture/demos{suffix}", path.with_suffix(suffix).read_bytes())
    module = demos("memory://mixture/*.h5", val_fraction=0)
    assert sum(len(batch["state"]) for batch in module.train_dataloader()) == 24


def test_a_worker_that_reads_from_a_remote_file_system_is_not_forked(record):
    module = demos(f"file://{record()}", val_fraction=0, num_workers=1)
    loader = module.train_dataloader()
    assert loader.multiprocessing_context.get_start_method() == "spawn"
    samples = torch.cat([batch["state"] for batch in loader])
    expected = [(e, t) for e, length in enumerate((7, 12, 5)) for t in range(length)]
    assert sorted(map(tuple, samples.tolist())) == expected


def test_refuses_files_of_differing_action_dimension(record):
    module = demos(record("a.h5", dim=3), record("b.h5", dim=7))
    with pytest.raises(ValueError, match=r"action_dim: \S*a.h5 has 3, \S*b.h5 has 7"):
        module.setup("fit")


def test_refuses_files_of_differing_control_mode(record):
    module = demos(record("a.h5"), record("b.h5", mode="pd_ee_delta_pose"))
    with pytest.raises(ValueError, match=r"control_mode: \S*a.h5 has pd_joint_pos"):
        module.setup("fit")


def test_held_out_demos_may_be_shorter_than_a_chunk(record):
    module = demos(record(steps=(3, 3, 3, 12)), horizon=12, val_fraction=0.7)
    module.setup("fit")
    assert sum(len(batch["state"]) for batch in module.predict_dataloader()) == 9


def test_refuses_a_horizon_longer_than_every_demo(record):
    with pytest.raises(ValueError, match=r"horizon: expected 1 to 12, .*\(\w+ of .*\.h5\), got 13"):
        demos(record(), horizon=13, val_fraction=0).setup("fit")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"demos": []}, "empty list"),
        ({"views": [], "state": []}, "views and state: expected at least one name"),
        ({"val_fraction": 1.0}, "val_fraction: expected .*, got 1.0"),
        ({"batch_size": 0}, "batch_size: expected at least 1, got 0"),
        ({"n_obs_steps": 0}, "n_obs_steps: expected at least 1, got 0"),
        (
            {"demos": ["a", DemoSource("b", weight=2.0)]},
            "a positive weight for every entry",
        ),
        ({"on_resume": "never"}, "on_resume: expected one of"),
        ({"demos": [DemoSource("b", weight=0.0)]}, "a positive weight for every entry"),
    ],
)
def test_refuses_invalid_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        RobotDemos(**{"demos": ["a"], "views": ["cam"], "state": ["qpos"], "horizon": 4, **options})


class Episodes(LightningDataModule):
    """Evaluation episodes that record the stages they are set up for."""

    def __init__(self, validate=True):
        super().__init__()
        self.stages, self.validate = [], validate

    def setup(self, stage):
        self.stages.append(stage)

    def val_dataloader(self):
        return [["episode"]] if self.validate else []

    def test_dataloader(self):
        return [["episode"], ["episode"]]


def test_testing_reads_no_demos():
    module = demos("nowhere/at-all.h5", episodes=Episodes())
    module.setup("test")
    assert module.episodes.stages == ["test"]
    assert len(module.test_dataloader()) == 2


@pytest.mark.parametrize(("validate", "loaders"), [(True, 2), (False, 1)])
def test_episodes_are_evaluated_in_validation_where_they_support_it(record, validate, loaders):
    module = demos(record(), val_fraction=0.3, episodes=Episodes(validate))
    assert len(module.val_dataloader()) == loaders


def test_testing_without_episodes_says_what_is_missing():
    with pytest.raises(ValueError, match="no episodes to test on"):
        demos("a.h5").test_dataloader()


def test_predicting_needs_validation_demos(record):
    with pytest.raises(ValueError, match="val_fraction: expected more than 0"):
        demos(record(), val_fraction=0).predict_dataloader()


def test_is_built_from_yaml(record):
    parser = ArgumentParser()
    parser.add_subclass_arguments(LightningDataModule, "data")
    path = record()
    config = parser.parse_string(f"""
data:
  class_path: e0_lightning.data.datamodule.RobotDemos
  init_args:
    demos: [{{path: {path}, weight: 2, instruction: push}}]
    views: [cam]
    state: [qpos]
    horizon: 4
    val_fraction: 0
""")
    module = parser.instantiate_classes(config).data
    assert next(module.action_chunks())[0].shape == (7, 4, 3)
    assert module.sources == [DemoSource(path, 2.0, "push")]


class StepCounter(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(2, 1)
        self.steps = 0

    def training_step(self, batch, batch_idx):
        self.steps += 1
        return self.layer(batch["state"]).mean()

    def validation_step(self, batch, batch_idx):
        assert not batch["valid"].all()

    def predict_step(self, batch, batch_idx):
        return batch["state"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("options", [{}, {"overfit_batches": 2}, {"fast_dev_run": True}])
def test_any_lightning_module_fits_and_predicts(record, options):
    module = StepCounter()
    trainer = Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, **options
    )
    data = demos(record(steps=(5,) * 8), val_fraction=0.25)
    trainer.fit(module, data)
    assert module.steps == {"fast_dev_run": 1, "overfit_batches": 2}.get(next(iter(options), ""), 5)
    assert trainer.predict(module, data)[0].shape[1] == 2


def test_reading_demos_imports_no_simulator(record):
    script = (
        "import sys; from e0_lightning.data.datamodule import RobotDemos; "
        f"d = RobotDemos([{record()!r}], ['cam'], ['qpos'], 4); d.setup('fit'); "
        "print([name for name in sys.modules if name.startswith(('mani_skill', 'sapien'))])"
    )
    assert subprocess.check_output([sys.executable, "-c", script], text=True).strip() == "[]"


def test_the_main_experiment_trains_where_no_simulator_can_be_imported(real, tmp_path):
    experiment = Path(__file__).parents[2] / "experiments" / "maniskill.yaml"
    args = [
        "fit",
        f"--config={experiment}",
        "--trainer.max_steps=1",
        "--trainer.accelerator=cpu",
        f"--trainer.default_root_dir={tmp_path}",
        f"--data.demos=[{real}]",
        "--data.batch_size=2",
        "--data.num_workers=0",
        "--data.val_fraction=0.4",
    ]
    simulators = ["mani_skill", "sapien", "mplib", "gymnasium", "libero", "robosuite", "mujoco"]
    script = (
        f"import sys; sys.modules.update(dict.fromkeys({simulators})); "
        f"from e0_lightning.cli import run; ended = run({args}); "
        "print(ended.trainer.global_step, type(ended.datamodule.episodes).__name__)"
    )
    output = subprocess.check_output([sys.executable, "-c", script], text=True)
    assert output.splitlines()[-1] == "1 ManiSkillEpisodes"
