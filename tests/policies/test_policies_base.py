from typing import ClassVar

import h5py
import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader

from e0_lightning.policies.checkpoint import build_policy, load_policy
from e0_lightning.training.callbacks.prediction_writer import PredictionWriter
from e0_lightning.types import PolicySpec

from .conftest import SPEC, ChunkDataset, Episodes, make_batch, tiny_settings, trainer


@pytest.fixture
def fitted(tmp_path):
    policy = build_policy(tiny_settings())
    runner = trainer(tmp_path, max_steps=4)
    runner.fit(policy, datamodule=ChunkDataset())
    path = tmp_path / "last.ckpt"
    runner.save_checkpoint(path)
    return policy, path


def test_fit_learns_contract_and_statistics_from_the_data(fitted):
    policy, path = fitted
    assert policy.spec == SPEC
    low = make_batch()["actions"].flatten(0, 1).quantile(0.01, dim=0)
    torch.testing.assert_close(policy.actions.normalizer.low, low, rtol=1e-3, atol=1e-3)
    assert load_policy(path).spec == SPEC


def test_weight_averaging_sees_fitted_statistics(tmp_path):
    policy = build_policy(tiny_settings())
    averaging = pl.callbacks.EMAWeightAveraging(decay=0.9)
    trainer(tmp_path, max_steps=2, callbacks=[averaging]).fit(policy, datamodule=ChunkDataset())
    assert policy.actions.normalizer.low.isfinite().all()


def test_bf16_trains_with_statistics_in_full_precision(tmp_path):
    policy = build_policy(tiny_settings())
    trainer(tmp_path, max_steps=2, precision="bf16-mixed").fit(policy, datamodule=ChunkDataset())
    assert policy.actions.normalizer.low.dtype == torch.float32
    assert policy.act(make_batch()).isfinite().all()


def test_training_in_bf16_throughout_is_refused(tmp_path):
    runner = trainer(tmp_path, max_steps=1, precision="bf16-true")
    with pytest.raises(ValueError, match=r"trainer.precision: found bf16-true.*Use bf16-mixed"):
        runner.fit(build_policy(tiny_settings()), datamodule=ChunkDataset())


@pytest.mark.parametrize("has_bfloat16", [True, False])
def test_bf16_on_a_processor_without_it_warns(tmp_path, monkeypatch, recwarn, has_bfloat16):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: has_bfloat16)
    runner = trainer(tmp_path, max_steps=1, precision="bf16-mixed")
    runner.fit(build_policy(tiny_settings()), datamodule=ChunkDataset())
    warned = [str(each.message) for each in recwarn if "trainer.precision" in str(each.message)]
    assert bool(warned) is not has_bfloat16
    assert all("32-true" in each for each in warned)


def test_batches_accumulated_to_a_step_draw_for_themselves(tmp_path):
    class Seeds(pl.Callback):
        seen: ClassVar[list[int]] = []

        def on_train_batch_end(self, *_):
            self.seen.append(torch.initial_seed())

    runner = trainer(tmp_path, max_steps=1, accumulate_grad_batches=3, callbacks=[Seeds()])
    runner.fit(build_policy(tiny_settings()), datamodule=ChunkDataset())
    assert len(Seeds.seen) == len(set(Seeds.seen)) == 3


def test_test_plays_episodes_and_logs_their_success(fitted, tmp_path):
    policy, _ = fitted
    runner = trainer(tmp_path)
    (logged,) = runner.test(policy, DataLoader([Episodes([1, 2, 3])], batch_size=None))
    assert logged["test/success"] == 1.0


def test_predict_gives_chunks_in_robot_units(fitted, tmp_path):
    policy, _ = fitted
    chunks = trainer(tmp_path).predict(policy, datamodule=ChunkDataset())
    assert chunks[0].shape == (4, SPEC.horizon, SPEC.action_dim)


def test_predicted_chunks_are_written_beside_the_demonstrators(fitted, tmp_path):
    policy, _ = fitted
    data = ChunkDataset()
    chunks = trainer(tmp_path, callbacks=[PredictionWriter()]).predict(policy, datamodule=data)
    (path,) = tmp_path.rglob("predictions/rank_0.h5")
    with h5py.File(path) as file:
        found = {name: torch.from_numpy(file[name][:]) for name in file}
    torch.testing.assert_close(found["predicted"], torch.cat(chunks))
    batches = list(data.predict_dataloader())
    for name in ("actions", "state", "valid"):
        torch.testing.assert_close(found[name], torch.cat([batch[name] for batch in batches]))


def test_an_observation_of_another_contract_is_refused(fitted):
    policy, _ = fitted
    shown = make_batch()
    with pytest.raises(ValueError, match=r"images: found \{\}, wanted \{"):
        policy.act({**shown, "images": {}})
    with pytest.raises(ValueError, match=r"state: found 1 dimensions, wanted \d"):
        policy.act({**shown, "state": shown["state"][:, :1]})


def test_views_count_by_name_not_by_place():
    spec = PolicySpec(views={"front": 4, "wrist": 8}, state={"place": 1})
    front, wrist = torch.zeros(1, 3, 4, 4), torch.ones(1, 3, 8, 8)
    shown = {"images": {"wrist": wrist, "front": front}, "state": torch.zeros(1, 1)}
    assert list(spec.check_observation(shown)["images"]) == ["front", "wrist"]
    for images in (
        {"front": front},
        {"front": front, "wrsit": wrist},
        {"front": front, "wrist": front},
    ):
        with pytest.raises(ValueError, match=r"images: found .*'wrist': \(3, 8, 8\)"):
            spec.check_observation({**shown, "images": images})


@pytest.mark.parametrize(
    ("field", "value"),
    [("control_mode", "pd_ee_delta_pose"), ("views", {"wrist": 32}), ("state", {"tcp_pose": 5})],
)
def test_data_of_another_contract_is_refused_naming_both_sides(fitted, tmp_path, field, value):
    policy, path = fitted
    other = PolicySpec(**(SPEC.as_dict() | {field: value}))
    with pytest.raises(
        ValueError, match=f"{field}: the policy of the checkpoint has .*, the data has"
    ):
        trainer(tmp_path).validate(load_policy(path), datamodule=ChunkDataset(other))
    assert policy.spec == SPEC


def test_a_checkpoint_is_not_resumed_on_other_data(fitted, tmp_path):
    _, path = fitted
    other = PolicySpec(**(SPEC.as_dict() | {"control_mode": "pd_ee_delta_pose"}))
    data = ChunkDataset(other)
    data.origin = "demos.h5"
    found = r"the policy of demos\.h5 has pd_ee_delta_pose, the checkpoint .*last\.ckpt has pd_j"
    with pytest.raises(ValueError, match=found):
        trainer(tmp_path, max_steps=8).fit(
            build_policy(tiny_settings()), datamodule=data, ckpt_path=path
        )


def test_wrong_dimensions_name_the_argument_and_the_value_to_give(tmp_path):
    other = PolicySpec(**(SPEC.as_dict() | {"action_dim": 7}))
    with pytest.raises(ValueError, match=r"normalizer\.dim\): 3, the data has 7"):
        trainer(tmp_path, max_steps=1).fit(
            build_policy(tiny_settings()), datamodule=ChunkDataset(other)
        )


def test_a_policy_without_data_says_so():
    with pytest.raises(ValueError, match="no spec yet"):
        _ = build_policy(tiny_settings()).spec


def test_a_foreign_checkpoint_is_refused(tmp_path):
    path = tmp_path / "foreign.ckpt"
    torch.save({"state_dict": {}}, path)
    with pytest.raises(ValueError, match="no constructor tree"):
        load_policy(path)


class Payload:
    def __reduce__(self):
        return (open, ("/dev/null",))


def test_nothing_in_a_checkpoint_is_executed(tmp_path):
    path = tmp_path / "evil.ckpt"
    torch.save({"state_dict": {}, "hyper_parameters": Payload()}, path)
    with pytest.raises(Exception, match="Weights only load failed"):
        load_policy(path)
