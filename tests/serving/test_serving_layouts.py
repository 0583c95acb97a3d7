"""Layouts: the observations of known clients, taken apart for contracts of their kind."""

import numpy as np
import pytest
import torch
import yaml

from e0_lightning.serving.images import square
from e0_lightning.serving.key_map import load_key_map
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.types import PolicySpec

RNG = np.random.default_rng(0)


def picture(side=16):
    return RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)


def spec(views, state, action_dim=7, horizon=10):
    sides = dict.fromkeys(views, 16)
    return PolicySpec(sides, state, action_dim, "any", horizon)


VLABENCH = {"ee_pos": 3, "ee_euler": 3, "gripper_open": 1}

CLIENTS = {
    "libero": (
        spec(["agentview_rgb", "eye_in_hand_rgb"], {"ee_states": 6, "gripper_states": 2}),
        ["observation/image", "observation/wrist_image"],
        {"observation/state": np.arange(8.0)},
    ),
    "vlabench": (
        spec(["front", "wrist"], VLABENCH),
        ["observation/image", "observation/wrist_image"],
        {"observation/state": np.array([0.0, 1, 2, 3, 4, 5, 1 - 6])},  # its flag is inverted
    ),
    "vlabench of three cameras": (
        spec(["front", "wrist", "right"], VLABENCH),
        ["observation/image", "observation/wrist_image", "observation/second_image"],
        {"observation/state": np.array([0.0, 1, 2, 3, 4, 5, 1 - 6])},
    ),
    "droid": (
        spec(
            ["exterior_image_1_left", "wrist_image_left"],
            {"joint_position": 7, "gripper_position": 1},
            action_dim=8,
            horizon=16,
        ),
        ["observation/exterior_image_1_left", "observation/wrist_image_left"],
        {
            "observation/joint_position": np.arange(7.0),
            "observation/gripper_position": np.array([7.0]),
        },
    ),
}


@pytest.mark.parametrize("client", CLIENTS)
def test_clients_of_flat_keys_are_read(client):
    wanted, keys, states = CLIENTS[client]
    reader = ObservationParser(load_key_map(client.split()[0]), wanted)
    pictures = [picture() for _ in keys]
    message = {**dict(zip(keys, pictures, strict=True)), **states, "prompt": "go"}
    found = reader.read(message)
    for sent, (view, image) in zip(pictures, found["images"].items(), strict=True):
        sent = sent[:, ::-1] if view in reader.layout.mirrored else sent
        np.testing.assert_array_equal(image[0].permute(1, 2, 0), sent)
    np.testing.assert_array_equal(found["state"][0], np.arange(wanted.state_dim))
    assert found["instruction"] == ["go"]


def test_aloha_sends_images_channels_first_in_a_map():
    cameras = ["cam_high", "cam_left_wrist"]
    reader = ObservationParser(load_key_map("aloha"), spec(cameras, {"qpos": 14}, 14, 50))
    images = {name: picture().transpose(2, 0, 1) for name in [*cameras, "cam_low"]}
    found = reader.read({"images": images, "state": np.arange(14), "prompt": "go"})
    assert list(found["images"]) == cameras
    np.testing.assert_array_equal(found["images"]["cam_high"][0], images["cam_high"])


def test_a_maniskill_observation_is_read_as_it_is():
    reader = ObservationParser(
        load_key_map("maniskill"), spec(["base_camera"], {"qpos": 9, "tcp_pose": 7})
    )
    rgb = picture()
    found = reader.read(
        {
            "sensor_data": {"base_camera": {"rgb": rgb[None]}},
            "agent": {"qpos": np.arange(9.0)[None], "qvel": np.zeros((1, 9))},
            "extra": {"tcp_pose": np.arange(9.0, 16)[None]},
            "prompt": "go",
        }
    )
    np.testing.assert_array_equal(found["images"]["base_camera"][0].permute(1, 2, 0), rgb)
    np.testing.assert_array_equal(found["state"][0], np.arange(16))


def test_liberos_harness_and_its_openpi_client_are_the_same_to_a_policy():
    wanted = CLIENTS["libero"][0]
    reader = ObservationParser(load_key_map("libero"), wanted)
    front, wrist, state = picture(), picture(), np.arange(8.0)
    one = reader.read(
        {
            "observation/image": front,
            "observation/wrist_image": wrist,
            "observation/state": state,
            "prompt": "go",
        }
    )
    other = reader.read(
        {
            "images": {"agentview": front, "wrist": wrist},
            "states": state,
            "task_description": "go",
        }
    )
    for view in one["images"]:
        assert torch.equal(one["images"][view], other["images"][view])
    assert torch.equal(one["state"], other["state"])
    assert one["instruction"] == other["instruction"]


def test_a_policy_trained_on_mirrored_pictures_gets_them_as_they_come():
    reader = ObservationParser(load_key_map("libero"), spec(["agentview_mirrored"], {}))
    front = picture()
    found = reader.read({"images": {"agentview": front}, "task_description": "go"})
    np.testing.assert_array_equal(found["images"]["agentview_mirrored"][0].permute(1, 2, 0), front)


def test_parts_of_the_state_are_cut_out_in_the_order_of_the_contract():
    wanted = spec(["agentview"], {"gripper_states": 2, "ee_pos": 3})
    reader = ObservationParser(load_key_map("libero"), wanted)
    message = {"images": {"agentview": picture()}, "task_description": "go"}
    found = reader.read({**message, "states": np.arange(8.0)})
    assert found["state"].tolist() == [[6, 7, 0, 1, 2]]
    with pytest.raises(ValueError, match=r"states: found shape \(5,\).*wanted 8 numbers"):
        reader.read({**message, "states": np.arange(5.0)})


def test_a_state_that_clients_do_not_send_is_refused():
    wanted = spec(["agentview"], {"joint_states": 7, "gripper": 1})
    with pytest.raises(ValueError, match=r"'joint_states' of 7 numbers.* send ee_pos of 3"):
        ObservationParser(load_key_map("libero"), wanted)


def test_droid_gets_exactly_the_steps_its_client_insists_on():
    assert ObservationParser(load_key_map("droid"), CLIENTS["droid"][0]).steps == 10
    short = spec(["exterior_image_1_left"], {"joint_position": 7}, 8, horizon=5)
    with pytest.raises(ValueError, match=r"plans 5 steps.*want 10"):
        ObservationParser(load_key_map("droid"), short)


@pytest.mark.parametrize(("n_action_steps", "layout"), [(0, "plain"), (51, "plain"), (4, "libero")])
def test_steps_that_a_client_cannot_be_given_are_refused(n_action_steps, layout):
    wanted = spec(["agentview"], {}, horizon=50)
    assert ObservationParser(load_key_map(layout), wanted, n_action_steps=8).steps == 8
    with pytest.raises(
        ValueError, match=f"n_action_steps: found {n_action_steps}, wanted [15] to 50"
    ):
        ObservationParser(load_key_map(layout), wanted, n_action_steps=n_action_steps)


def test_ones_own_layout_is_a_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(yaml.safe_dump({"images": {"top": "cam/0"}, "state": "q", "prompt": "task"}))
    reader = ObservationParser(load_key_map(str(path)), spec(["top"], {"q": 2}))
    found = reader.read({"cam": {"0": picture()}, "q": [1, 2], "task": "go"})
    assert found["state"].tolist() == [[1, 2]]


def test_mistakes_in_layouts_are_named(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cameras: {}")
    with pytest.raises(ValueError, match=r"mine.yaml: found cameras, wanted only: images"):
        load_key_map(str(path))
    with pytest.raises(ValueError, match=r"No layout 'libera'; there are: plain"):
        load_key_map("libera")
    with pytest.raises(ValueError, match="wants the view 'top', this layout has front"):
        ObservationParser(load_key_map("vlabench"), spec(["top"], {}))
    with pytest.raises(ValueError, match="wants the state part 'q_state' of 7 numbers"):
        ObservationParser(load_key_map("vlabench"), spec(["front"], {"q_state": 7}))
    with pytest.raises(ValueError, match="have 4 dimensions, those of this layout 7"):
        ObservationParser(load_key_map("libero"), spec(["agentview"], {}, action_dim=4))


def test_a_missing_instruction_is_the_default_one_or_an_error():
    plain, message = load_key_map("plain"), {"images": {"top": picture()}}
    assert ObservationParser(plain, spec(["top"], {}), "wait").read(message)["instruction"] == [
        "wait"
    ]
    with pytest.raises(ValueError, match=r"No 'prompt' or 'task_description'.*--prompt"):
        ObservationParser(plain, spec(["top"], {})).read(message)


@pytest.mark.parametrize("shape", [(16, 32, 3), (3, 16, 32), (1, 1, 16, 32, 3)])
def test_a_wide_image_is_scaled_to_fit_and_padded(shape):
    image = square(np.full(shape, 200, np.uint8), 8, "image")
    assert image.shape == (3, 8, 8)
    assert (image[:, 2:6] == 200).all()
    assert image.sum() == 200 * 3 * 4 * 8


def test_resizing_agrees_with_openpis():
    tools = pytest.importorskip("openpi_client.image_tools", reason="no openpi-client")
    smooth = np.linspace(0, 255, 48 * 64).reshape(48, 64, 1).repeat(3, 2).astype(np.uint8)
    ours = square(smooth, 24, "image").permute(1, 2, 0).numpy().astype(int)
    theirs = tools.resize_with_pad(smooth, 24, 24).astype(int)
    assert np.abs(ours - theirs).max() <= 2


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((16, 16, 4), np.uint8), r"\(16, 16, 4\).*\(height, width, 3\)"),
        (np.zeros((2, 16, 16, 3), np.uint8), r"\(2, 16, 16, 3\)"),
        (np.zeros((0, 16, 3), np.uint8), "with pixels"),
        (np.full((4, 4, 3), 255.0), "0 to 255"),
        ("a picture", "found a str"),
    ],
)
def test_what_is_no_image_is_refused(pixels, words):
    with pytest.raises(ValueError, match=f"top: found.*{words}" if words[0] != "f" else words):
        square(pixels, 16, "top")
