import sys

import pytest

from e0_lightning.envs.base import require_opencv
from e0_lightning.envs.mujoco_gl import offscreen


@pytest.fixture
def opencv(tmp_path, monkeypatch):
    """Replace OpenCV by a module with this code."""

    def replace(code):
        (tmp_path / "cv2.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "cv2", raising=False)

    yield replace
    sys.modules.pop("cv2", None)


def test_a_missing_library_of_opencv_is_named_with_its_package(opencv):
    opencv("raise ImportError('libGL.so.1: cannot open shared object file')")
    for check in (require_opencv, offscreen.__wrapped__):
        with pytest.raises(RuntimeError, match=r"libGL.so.1: cannot(.|\n)*install -y libgl1"):
            check()


def test_nothing_is_required_where_no_simulator_is_installed(opencv):
    opencv("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    require_opencv()
