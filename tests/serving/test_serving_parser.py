"""Key maps and the parser: observations of common clients, converted for matching specs."""

import numpy as np
import pytest
import torch
import yaml
from scripted_server import SPEC, observe

from e0_lightning.geometry import resize_frames
from e0_lightning.key_map import load_key_map
from e0_lightning.serving.limits import MAX_INSTRUCTION
from e0_lightning.serving.parser import ObservationParser
from e0_lightning.types import PolicySpec, ViewSize

RNG = np.random.default_rng(0)


def noise_image(side=16):
    return RNG.integers(0, 256, (side, side, 3), dtype=np.uint8)


def make_spec(views, state, action_dim=7, horizon=10):
    sides = dict.fromkeys(views, 16)
    return PolicySpec(sides, state, action_dim, "any", horizon)


VLABENCH = {"ee_pos": 3, "ee_euler": 3, "gripper_open": 1}

CLIENTS = {
    "libero": (
        make_spec(["agentview_rgb", "eye_in_hand_rgb"], {"ee_states": 6, "gripper_states": 2}),
        ["observation/image", "observation/wrist_image"],
        {"observation/state": np.arange(8.0)},
    ),
    "vlabench": (
        make_spec(["front", "wrist"], VLABENCH),
        ["observation/image", "observation/wrist_image"],
        {"observation/state": np.array([0.0, 1, 2, 3, 4, 5, 1 - 6])},  # the flag is inverted
    ),
    "vlabench with three cameras": (
        make_spec(["front", "wrist", "right"], VLABENCH),
        ["observation/image", "observation/wrist_image", "observation/second_image"],
        {"observation/state": np.array([0.0, 1, 2, 3, 4, 5, 1 - 6])},
    ),
    "droid": (
        make_spec(
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
def test_observations_with_flat_keys_are_parsed(client):
    spec, keys, states = CLIENTS[client]
    parser = ObservationParser(load_key_map(client.split()[0]), spec)
    images = [noise_image() for _ in keys]
    message = {**dict(zip(keys, images, strict=True)), **states, "prompt": "go"}
    observation = parser.parse(message)
    for sent, (view, image) in zip(images, observation["images"].items(), strict=True):
        expected = sent[:, ::-1] if view in parser.key_map.client.flips else sent
        np.testing.assert_array_equal(image[0].permute(1, 2, 0), expected)
    np.testing.assert_array_equal(observation["state"][0], np.arange(spec.state_dim))
    assert observation["instruction"] == ["go"]


@pytest.mark.parametrize("sent", [(48, 64), (24, 24)])
def test_frames_are_sized_as_in_training_unless_the_client_did_so(sent):
    size = ViewSize(24, 24, crop=[0, 0.25, 1, 0.5], camera=(48, 64))
    spec = PolicySpec({"front": size}, {}, 7, "pose", 5)
    frame = np.random.default_rng(0).integers(256, size=(*sent, 3), dtype=np.uint8)
    message = {"images": {"front": frame}, "prompt": "go"}
    image = ObservationParser(load_key_map("plain"), spec).parse(message)["images"]["front"][0]
    expected = resize_frames(frame[None], size)[0] if sent == (48, 64) else frame
    np.testing.assert_array_equal(image.permute(1, 2, 0), expected)


def test_alohas_channels_first_images_are_parsed():
    cameras = ["cam_high", "cam_left_wrist"]
    parser = ObservationParser(load_key_map("aloha"), make_spec(cameras, {"qpos": 14}, 14, 50))
    images = {name: noise_image().transpose(2, 0, 1) for name in [*cameras, "cam_low"]}
    observation = parser.parse({"images": images, "state": np.arange(14), "prompt": "go"})
    assert list(observation["images"]) == cameras
    np.testing.assert_array_equal(observation["images"]["cam_high"][0], images["cam_high"])


def test_a_maniskill_observation_is_parsed_unchanged():
    spec = make_spec(["base_camera"], {"qpos": 9, "tcp_pose": 7})
    rgb = noise_image()
    observation = ObservationParser(load_key_map("maniskill"), spec).parse(
        {
            "sensor_data": {"base_camera": {"rgb": rgb[None]}},
            "agent": {"qpos": np.arange(9.0)[None], "qvel": np.zeros((1, 9))},
            "extra": {"tcp_pose": np.arange(9.0, 16)[None]},
            "prompt": "go",
        }
    )
    np.testing.assert_array_equal(observation["images"]["base_camera"][0].permute(1, 2, 0), rgb)
    np.testing.assert_array_equal(observation["state"][0], np.arange(16))


def test_liberos_openpi_and_vla_eval_clients_give_equal_observations():
    parser = ObservationParser(load_key_map("libero"), CLIENTS["libero"][0])
    front, wrist, state = noise_image(), noise_image(), np.arange(8.0)
    openpi = parser.parse(
        {
            "observation/image": front,
            "observation/wrist_image": wrist,
            "observation/state": state,
            "prompt": "go",
        }
    )
    vla_eval = parser.parse(
        {
            "images": {"agentview": front, "wrist": wrist},
            "states": state,
            "task_description": "go",
        }
    )
    for view in openpi["images"]:
        assert torch.equal(openpi["images"][view], vla_eval["images"][view])
    assert torch.equal(openpi["state"], vla_eval["state"])
    assert openpi["instruction"] == vla_eval["instruction"]


def test_a_policy_trained_on_mirrored_images_gets_liberos_images_unchanged():
    parser = ObservationParser(load_key_map("libero"), make_spec(["agentview_mirrored"], {}))
    front = noise_image()
    images = parser.parse({"images": {"agentview": front}, "task_description": "go"})["images"]
    np.testing.assert_array_equal(images["agentview_mirrored"][0].permute(1, 2, 0), front)


def test_state_parts_are_sliced_in_the_order_of_the_spec():
    spec = make_spec(["agentview"], {"gripper_states": 2, "ee_pos": 3})
    parser = ObservationParser(load_key_map("libero"), spec)
    message = {"images": {"agentview": noise_image()}, "task_description": "go"}
    observation = parser.parse({**message, "states": np.arange(8.0)})
    assert observation["state"].tolist() == [[6, 7, 0, 1, 2]]
    with pytest.raises(ValueError, match=r"states: expected 8 numbers, got shape \(5,\)"):
        parser.parse({**message, "states": np.arange(5.0)})


def test_a_state_part_that_clients_do_not_send_is_refused():
    spec = make_spec(["agentview"], {"joint_states": 7, "gripper": 1})
    with pytest.raises(ValueError, match=r"state part 'joint_states' .* got keys for ee_pos"):
        ObservationParser(load_key_map("libero"), spec)


def test_droids_client_gets_exactly_ten_steps():
    assert ObservationParser(load_key_map("droid"), CLIENTS["droid"][0]).n_action_steps == 10
    spec = make_spec(["exterior_image_1_left"], {"joint_position": 7}, 8, horizon=5)
    with pytest.raises(ValueError, match=r"at least 10 steps.*got a policy with 5"):
        ObservationParser(load_key_map("droid"), spec)


@pytest.mark.parametrize(("n_action_steps", "name"), [(0, "plain"), (51, "plain"), (4, "libero")])
def test_n_action_steps_outside_of_the_clients_range_is_refused(n_action_steps, name):
    key_map, spec = load_key_map(name), make_spec(["agentview"], {}, horizon=50)
    assert ObservationParser(key_map, spec, n_action_steps=8).n_action_steps == 8
    expected = rf"n_action_steps: expected [15] to 50 .*got {n_action_steps}"
    with pytest.raises(ValueError, match=expected):
        ObservationParser(key_map, spec, n_action_steps=n_action_steps)


def test_a_key_map_is_read_from_a_yaml_file(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        yaml.safe_dump({"images": {"top": "cam/0"}, "state": "q", "instruction": "task"})
    )
    parser = ObservationParser(load_key_map(str(path)), make_spec(["top"], {"q": 2}))
    observation = parser.parse({"cam": {"0": noise_image()}, "q": [1, 2], "task": "go"})
    assert observation["state"].tolist() == [[1, 2]]


def test_errors_in_key_maps_name_the_field(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("cameras: {}")
    with pytest.raises(ValueError, match=r"mine.yaml: expected only fields.*got cameras"):
        load_key_map(str(path))
    with pytest.raises(ValueError, match=r"expected one of .*plain.*got 'libera'"):
        load_key_map("libera")
    with pytest.raises(ValueError, match=r"got no file at none\.yaml"):
        load_key_map("none.yaml")
    with pytest.raises(ValueError, match=r"the view 'top'.*got keys for front"):
        ObservationParser(load_key_map("vlabench"), make_spec(["top"], {}))
    with pytest.raises(ValueError, match=r"state part 'q_state' .* got keys for ee_pos"):
        ObservationParser(load_key_map("vlabench"), make_spec(["front"], {"q_state": 7}))
    with pytest.raises(ValueError, match=r"expected 7 action dimensions.*got a policy with 4"):
        ObservationParser(load_key_map("libero"), make_spec(["agentview"], {}, action_dim=4))


def test_a_missing_instruction_is_the_servers_or_an_error():
    key_map, message = load_key_map("plain"), {"images": {"top": noise_image()}}
    spec = make_spec(["top"], {})
    assert ObservationParser(key_map, spec, "wait").parse(message)["instruction"] == ["wait"]
    expected = r"--instruction of the server\) under 'prompt' or 'task_description'"
    with pytest.raises(ValueError, match=expected):
        ObservationParser(key_map, spec).parse(message)


REFUSED = {
    "NaN": ({"state": {"joints": [0, float("nan")], "gripper": [1.0]}}, "got nan at index 1"),
    "infinity": ({"state": {"joints": [np.inf, 0], "gripper": [1.0]}}, "got inf at index 0"),
    "3e38": (
        {"state": {"joints": np.array([3e38, 0], np.float32), "gripper": [1.0]}},
        "finite and at most 1e[+]09 in magnitude, got 3e[+]38",
    ),
    "-1e300": ({"state": {"joints": [-1e300, 0], "gripper": [1.0]}}, "got -1e[+]300 at index 0"),
    "text array": ({"state": {"joints": np.array(["1", "2"]), "gripper": [1.0]}}, "dtype <U1"),
    "text": ({"state": {"joints": ["1", "2"], "gripper": [1.0]}}, r"no numbers \(list\)"),
    "uneven lists": ({"state": {"joints": [[1, 2], [3]], "gripper": [1.0]}}, "uneven lists"),
    "an array in a list": (
        {"state": {"joints": [np.zeros(1000), 0.0], "gripper": [1.0]}},
        r"no numbers \(list\)",
    ),
    "a long state": (
        {"state": {"joints": np.zeros(10**6), "gripper": [1.0]}},
        r"expected 2 numbers, got shape \(1000000,\)",
    ),
    "a long instruction": (
        {"prompt": "a" * (MAX_INSTRUCTION + 1)},
        "prompt: expected at most 2000 characters, got 2001",
    ),
    "a long instruction as bytes": ({"prompt": np.array(b"a" * 3000)}, "got 3000"),
    "a list of instructions": ({"prompt": ["a"]}, "expected one instruction, got a list"),
}


@pytest.mark.parametrize(("changes", "error"), REFUSED.values(), ids=REFUSED)
def test_invalid_values_are_refused_without_echoing_them(changes, error):
    parser = ObservationParser(load_key_map("plain"), SPEC)
    with pytest.raises(ValueError, match=error) as refusal:
        parser.parse(observe(**changes))
    assert len(str(refusal.value)) < 300


def test_the_longest_instruction_is_accepted():
    text = "ä" * MAX_INSTRUCTION
    parser = ObservationParser(load_key_map("plain"), SPEC)
    assert parser.parse(observe(prompt=text))["instruction"] == [text]


def test_errors_about_missing_keys_list_a_few_of_those_present():
    parser = ObservationParser(load_key_map("plain"), SPEC)
    with pytest.raises(ValueError, match="key0") as refusal:
        parser.parse({f"key{n}" * 50: n for n in range(5000)})
    assert len(str(refusal.value)) < 500
