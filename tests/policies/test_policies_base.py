"""Spec, statistics, steps and metrics of every policy."""

import h5py
import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader
from torchmetrics import Metric

from e0_lightning.policies.checkpoint import load_policy
from e0_lightning.training.callbacks.prediction_writer import PredictionWriter
from e0_lightning.types import PolicySpec
from tiny_policy import (
    SPEC,
    Episodes,
    InMemoryDemos,
    make_batch,
    new_policy,
    quiet_trainer,
    tiny_settings,
)


@pytest.fixture
def fitted(tmp_path):
    policy = new_policy(tiny_settings())
    trainer = quiet_trainer(tmp_path, max_steps=4)
    trainer.fit(policy, datamodule=InMemoryDemos())
    path = tmp_path / "last.ckpt"
    trainer.save_checkpoint(path)
    return policy, path


def other_spec(**changes):
    return PolicySpec(**(SPEC.as_dict() | changes))


def test_fit_takes_spec_and_statistics_from_the_data(fitted):
    policy, path = fitted
    assert policy.spec == SPEC
    low = make_batch()["actions"].flatten(0, 1).quantile(0.01, dim=0)
    torch.testing.assert_close(policy.actions.normalizer.low, low, rtol=1e-3, atol=1e-3)
    assert load_policy(path).spec == SPEC


def test_weight_averaging_copies_fitted_statistics(tmp_path):
    policy = new_policy(tiny_settings())
    averaging = pl.callbacks.EMAWeightAveraging(decay=0.9)
    trainer = quiet_trainer(tmp_path, max_steps=2, callbacks=[averaging])
    trainer.fit(policy, datamodule=InMemoryDemos())
    assert policy.actions.normalizer.low.isfinite().all()


def test_bf16_training_keeps_statistics_in_full_precision(tmp_path):
    policy = new_policy(tiny_settings())
    trainer = quiet_trainer(tmp_path, max_steps=2, precision="bf16-mixed")
    trainer.fit(policy, datamodule=InMemoryDemos())
    assert policy.actions.normalizer.low.dtype == torch.float32
    assert policy.act(make_batch()).isfinite().all()


def test_random_numbers_of_training_depend_on_step_and_batch_only(tmp_path):
    values: list[float] = []

    def losses(policy, batch, prefix):
        values.append(torch.rand((), generator=policy.generator).item())
        return {"loss": sum(weight.sum() for weight in policy.parameters()) * 0}

    def samples(seed):
        values.clear()
        torch.manual_seed(seed)  # without effect
        policy = new_policy(tiny_settings("Regression"))
        policy.losses = lambda *inputs: losses(policy, *inputs)
        trainer = quiet_trainer(
            tmp_path, max_steps=1, accumulate_grad_batches=3, limit_val_batches=0
        )
        trainer.fit(policy, datamodule=InMemoryDemos())
        return list(values)

    first = samples(1)
    assert len(set(first)) == 3
    assert samples(2) == first


def test_seeded_sampling_does_not_touch_the_global_generator(fitted):
    policy, _ = fitted
    before = torch.get_rng_state()
    first, second = (policy.predict_step(make_batch(), index) for index in (0, 1))
    assert not torch.equal(first, second)
    policy.act({**make_batch(), "noise_seed": [0, 1, 2, 3]})
    assert torch.equal(torch.get_rng_state(), before)


def test_episodes_of_a_test_are_run_and_their_success_rate_logged(fitted, tmp_path):
    policy, _ = fitted
    loader = DataLoader([Episodes([1, 2, 3])], batch_size=None)
    (logged,) = quiet_trainer(tmp_path).test(policy, loader, verbose=False)
    assert logged == {"test/success_rate": 1.0}


class WithoutDemos(pl.LightningDataModule):
    """Episodes beside demonstrations that are not on this machine."""

    @property
    def spec(self):
        raise ValueError("no such file")

    def test_dataloader(self):
        return DataLoader([Episodes([1, 2])], batch_size=None)


def test_a_test_needs_no_demonstrations(fitted, tmp_path):
    _, path = fitted
    trainer = quiet_trainer(tmp_path)
    trainer.test(load_policy(path), datamodule=WithoutDemos(), verbose=False)
    assert trainer.callback_metrics["test/success_rate"] == 1


def test_predict_returns_chunks_in_robot_units(fitted, tmp_path):
    policy, _ = fitted
    chunks = quiet_trainer(tmp_path).predict(policy, datamodule=InMemoryDemos())
    assert chunks[0].shape == (4, SPEC.horizon, SPEC.action_dim)


def test_predictions_are_written_with_the_demonstrators_actions_and_their_origin(fitted, tmp_path):
    class NamedDemos(InMemoryDemos):
        def predict_dataloader(self):
            batches = [make_batch(seed=seed) for seed in range(2)]
            for index, batch in enumerate(batches):
                # The second batch has longer names than the first.
                batch |= {"demo": [f"demos.h5/demo_é{10**index}"] * 4, "step": torch.arange(4)}
            return DataLoader(batches, batch_size=None)

    policy, _ = fitted
    data = NamedDemos()
    chunks = quiet_trainer(tmp_path, callbacks=[PredictionWriter()]).predict(
        policy, datamodule=data
    )
    (path,) = tmp_path.rglob("predictions/rank_0.h5")
    batches = list(data.predict_dataloader())
    with h5py.File(path) as file:
        torch.testing.assert_close(torch.from_numpy(file["predicted"][:]), torch.cat(chunks))
        for name in ("actions", "state", "valid"):
            expected = torch.cat([batch[name] for batch in batches])
            torch.testing.assert_close(torch.from_numpy(file[name][:]), expected)
        assert file["demo"].asstr()[:].tolist() == [name for b in batches for name in b["demo"]]
        assert file["step"][:].tolist() == [0, 1, 2, 3] * 2
        assert file["instruction"].asstr()[0] == "push the cube"
        assert all(column.fletcher32 for column in file.values())


class LargestError(Metric):
    """Largest error of each action dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.add_state("largest", torch.zeros(3), dist_reduce_fx="max")

    def update(self, predicted, actions, valid):
        error = (predicted - actions).abs()[valid].amax(dim=0)
        self.largest = torch.maximum(self.largest, error)

    def compute(self):
        return {"all": self.largest.max(), "by_dim": self.largest}


def test_metrics_of_a_user_are_logged_beside_the_default_ones(tmp_path):
    metric = {"class_path": f"{__name__}.LargestError"}
    policy = new_policy(tiny_settings("Regression", metrics={"worst": metric}))
    trainer = quiet_trainer(tmp_path, max_epochs=1)
    trainer.fit(policy, datamodule=InMemoryDemos())
    logged = {name for name in trainer.callback_metrics if name.startswith("val/")}
    dims = {f"val/{name}/dim_{i}" for name in ("action_l1", "worst/by_dim") for i in range(3)}
    assert logged == dims | {"val/loss", "val/action_l1", "val/worst/all", "val/worst/by_dim"}
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    assert list(load_policy(tmp_path / "last.ckpt").metrics) == ["action_l1"]


@pytest.mark.parametrize(
    ("field", "value"),
    [("control_mode", "pd_ee_delta_pose"), ("views", {"wrist": 32}), ("state", {"tcp_pose": 5})],
)
def test_data_with_another_spec_are_refused_naming_both(fitted, tmp_path, field, value):
    policy, path = fitted
    data = InMemoryDemos(other_spec(**{field: value}))
    message = f"{field}: the policy of the checkpoint has .*, the data has"
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path).validate(load_policy(path), datamodule=data)
    assert policy.spec == SPEC


def test_a_checkpoint_is_not_resumed_on_data_with_another_spec(fitted, tmp_path):
    _, path = fitted
    data = InMemoryDemos(other_spec(control_mode="pd_ee_delta_pose"))
    data.source = "demos.h5"
    message = r"the policy of demos\.h5 has pd_ee_delta_pose, the checkpoint .*last\.ckpt has pd_j"
    with pytest.raises(ValueError, match=message):
        quiet_trainer(tmp_path, max_steps=8).fit(
            new_policy(tiny_settings()), datamodule=data, ckpt_path=path
        )


def test_wrong_sizes_name_the_argument_and_both_values(tmp_path):
    data = InMemoryDemos(other_spec(action_dim=7))
    with pytest.raises(ValueError, match=r"normalizer\.dim: expected 7, got 3"):
        quiet_trainer(tmp_path, max_steps=1).fit(new_policy(tiny_settings()), datamodule=data)


def test_state_parts_are_looked_up_in_the_spec():
    relative = {"actions": [0, 1], "state": {"qpos": [3, 4]}}
    settings = tiny_settings()
    settings["init_args"]["actions"]["relative"] = relative
    policy = new_policy(settings)
    policy.fit_normalizers(InMemoryDemos())
    relative["state"] = {"gripper": [0, 1]}
    with pytest.raises(ValueError, match=r"relative.*expected state parts among \['qpos'\]"):
        new_policy(settings).fit_normalizers(InMemoryDemos())


def rotating_settings():
    """A policy whose actions are a rotation, relative to the state."""
    rotation = {"actions": [0, 1, 2], "state": {"qpos": [0, 1, 2]}, "representation": "euler_xyz"}
    settings = tiny_settings("Regression")
    relative = {"actions": [], "state": {}, "rotations": [rotation]}
    settings["init_args"]["actions"] = settings["init_args"]["actions"] | {"relative": relative}
    return settings


def test_rotations_of_a_policy_are_composed_and_restored_from_its_checkpoint(tmp_path):
    policy = new_policy(rotating_settings())
    trainer = quiet_trainer(tmp_path, max_steps=1)
    trainer.fit(policy, datamodule=InMemoryDemos())
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    loaded, batch = load_policy(tmp_path / "last.ckpt"), make_batch()
    normalized = loaded.actions.normalize(batch["actions"], batch["state"])
    back = loaded.actions.undo(normalized, batch["state"])
    torch.testing.assert_close(back, batch["actions"], atol=1e-5, rtol=0)
    assert loaded.act(batch).equal(policy.eval().act(batch))


def test_the_error_of_a_rotation_is_that_of_the_angle_between():
    metric = new_policy(rotating_settings()).metrics["action_l1"]
    predicted, actions = torch.zeros(2, 4, 3), torch.zeros(2, 4, 3)
    predicted[..., 0], actions[..., 0] = 3.1, -3.1
    metric.update(predicted, actions, torch.ones(2, 4, dtype=torch.bool))
    expected = torch.tensor([2 * torch.pi - 6.2, 0, 0])
    torch.testing.assert_close(metric.compute(), expected, atol=1e-5, rtol=0)


def test_a_new_policy_has_no_spec():
    with pytest.raises(ValueError, match="expected a fitted policy"):
        _ = new_policy(tiny_settings()).spec


def test_views_are_put_in_the_order_of_the_spec():
    spec = PolicySpec(views={"front": 4, "wrist": 8}, state={"pose": 1})
    front, wrist = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 8, 8)
    observation = {"images": {"wrist": wrist, "front": front}, "state": torch.zeros(1, 1)}
    assert list(spec.check_observation(observation)["images"]) == ["front", "wrist"]
    for images in (
        {"front": front},
        {"front": front, "wrsit": wrist},
        {"front": front, "wrist": front},
    ):
        with pytest.raises(ValueError, match=r"images: expected .*wrist"):
            spec.check_observation({**observation, "images": images})


def test_an_instruction_that_is_too_long_is_refused_before_training():
    data = InMemoryDemos()
    data.instructions = ["push", "push " * 200]
    with pytest.raises(ValueError, match=r"expected at most 128 tokens, got 1001 for 'push push"):
        new_policy(tiny_settings()).fit_normalizers(data)
