"""The page embeds what a person must see: upright frames in natural colors, films, plots."""

import base64
import io
import re

import h5py
import numpy as np
from PIL import Image

from e0_lightning.inspection.inspect import inspect
from e0_lightning.inspection.key_map_proposal import propose_key_map
from lab_recording import write_lab


def test_a_page_is_complete_alone(tmp_path, capsys):
    def change(file):
        frames = file["runs/run_000/cameras/front/rgb"]
        frames[...] = np.broadcast_to(np.uint8([220, 20, 30]), frames.shape)
        frames[:, 24:] = 0

    path = write_lab(tmp_path / "runs.h5", edit=change)
    with h5py.File(path) as file:
        (tmp_path / "lab.yaml").write_text(propose_key_map(file))
    inspect([path], key_map=str(tmp_path / "lab.yaml"), out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "http" not in page
    assert "<script" not in page
    images = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/webp;base64,([^"]+)"', page)
    ]
    stills = [image for image in images if image.n_frames == 1]
    films = [image for image in images if image.n_frames == 50]
    assert (len(stills), len(films)) == (2 * 4, 2)
    assert films[0].size == (64, 48)
    first = np.asarray(stills[0].convert("RGB")).astype(int)
    assert np.abs(first[8, 32] - [220, 20, 30]).max() < 20
    assert first[40, 32].max() < 20
    assert page.count("<polyline") == 4 * (7 + 7)
    assert "put the cup on the shelf" in page
