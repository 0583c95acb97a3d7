import numpy as np
import pytest
import torch

from e0_lightning.networks.prompt import Prompt

PI05 = "Task: {instruction}, State: {state};\nAction: "


def test_pi05_writes_the_state_into_the_prompt():
    state = torch.tensor([[-1.0, 0.0, 0.999], [0.1, 1.0, -0.5]])
    assert Prompt(PI05)(["push", "stop"], state) == [
        "Task: push, State: 0 128 255;\nAction: ",
        "Task: stop, State: 140 255 64;\nAction: ",
    ]


def test_bins_of_the_state_are_those_of_numpy_with_edges_and_outliers():
    edges = np.linspace(-1, 1, 257).astype(np.float32)
    states = np.concatenate([edges, np.nextafter(edges, -2), np.linspace(-1.5, 1.5, 999)])
    states = states.astype(np.float32)
    expected = np.digitize(states, bins=np.linspace(-1, 1, 257)[:-1]) - 1
    (text,) = Prompt("{instruction} {state}")(["push"], torch.from_numpy(states)[None])
    assert text.split()[1:] == [str(index) for index in expected]


def test_instructions_are_cleaned_as_by_openpi():
    texts = Prompt()([" push_the\ncube ", "{state}"], torch.zeros(2, 3))
    assert texts == ["push the cube\n", "{state}\n"]


@pytest.mark.parametrize("template", ["push", "{instruction} {task}", "{instruction} {", "{}"])
def test_templates_with_other_fields_are_refused(template):
    with pytest.raises(ValueError, match=r"prompt.template: expected .*\{instruction\}"):
        Prompt(template)


def test_a_state_without_values_is_as_long_as_any():
    (text,) = Prompt(PI05)(["push"], torch.zeros(1, 2, device="meta"))
    assert text == "Task: push, State: 128 128;\nAction: "
