"""A benchmark for vla-eval's harness, solved by the scripted actor."""

import numpy as np
from vla_eval.benchmarks.base import StepBenchmark, StepResult
from vla_eval.specs import IMAGE_RGB, LANGUAGE, DimSpec


class Reach(StepBenchmark):
    """Two tasks with images of different shades; an action must hold the shade and its step."""

    def get_tasks(self):
        return [{"name": "dark", "shade": 20}, {"name": "light", "shade": 200}]

    def reset(self, task):
        self.steps, self.correct = 0, 0
        return task["shade"]

    def step(self, action):
        actions = np.asarray(action["actions"])
        self.correct += actions.tolist() == [0.5, self._task["shade"], self.steps % 4]
        self.steps += 1
        return StepResult(self._task["shade"], 0.0, self.steps == 4, {})

    def make_obs(self, raw_obs, task):
        return {
            "images": {
                "front": np.full((16, 16, 3), raw_obs, np.uint8),
                "wrist": np.zeros((8, 8, 3), np.uint8),
            },
            "state": {"joints": np.array([0.5, 0]), "gripper": np.array([1.0])},
            "task_description": task["name"],
        }

    def get_step_result(self, step_result):
        return {"success": self.correct == 4}

    def get_action_spec(self):
        return {"actions": DimSpec("actions", 3, "scripted")}

    def get_observation_spec(self):
        return {"front": IMAGE_RGB, "wrist": IMAGE_RGB, "language": LANGUAGE}

    def get_metadata(self):
        return {"max_steps": 12}

    def get_hold_action(self, last_action):
        return {"actions": np.zeros(3)}
