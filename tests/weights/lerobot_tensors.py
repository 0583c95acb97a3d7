"""Random numbers that are the same in lerobot's environment and in that of the tests."""

import math
import zlib

import numpy as np

CHUNK, STATE, ACTIONS = 4, 5, 3
MAX_STATE, MAX_ACTIONS = 6, 5
VIEWS, SIDE, PATCH = ("base", "wrist"), 28, 14
VOCABULARY, WIDTH, MLP, LAYERS, HEADS, HEAD_DIM = 400, 32, 48, 2, 8, 8
VISION_WIDTH, EXPERT_WIDTH, EXPERT_MLP = 24, 16, 32
INSTRUCTIONS = {"pi0": ["push the cube", "stop"], "pi05": ["push the red_cube", "stop"]}


def random_tensor(name, shape):
    """Normal numbers that depend on the name alone; matrices keep the size of their inputs."""
    numbers = np.random.RandomState(zlib.crc32(name.encode())).standard_normal(shape)
    scale = 0.3 if len(shape) == 1 else 1 / math.sqrt(math.prod(shape[1:]))
    return (scale * numbers).astype(np.float32)


def images():
    """View to ``(2, 3, 28, 28)`` uint8."""
    shape = (2, 3, SIDE, SIDE)
    return {
        view: np.random.RandomState(seed).randint(0, 256, shape).astype(np.uint8)
        for seed, view in enumerate(VIEWS)
    }


def state():
    """Normalized state ``(2, STATE)``, with values outside of [-1, 1]."""
    return np.linspace(-1.3, 1.2, 2 * STATE, dtype=np.float32).reshape(2, STATE)


def noise():
    """``(2, CHUNK, MAX_ACTIONS)``."""
    shape = (2, CHUNK, MAX_ACTIONS)
    return np.random.RandomState(7).standard_normal(shape).astype(np.float32)


def byt5_tokens(prompts):
    """Tokens and mask of prompts, as ByT5's tokenizer writes them: bytes from 3 on, and 1."""
    tokens = [[byte + 3 for byte in prompt.encode()] + [1] for prompt in prompts]
    length = max(map(len, tokens))
    padded = [row + [0] * (length - len(row)) for row in tokens]
    return np.array(padded), np.array([[i < len(row) for i in range(length)] for row in tokens])
