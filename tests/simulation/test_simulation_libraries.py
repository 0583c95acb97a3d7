import sys

import pytest

from e0_lightning.envs.libraries import require_libraries
from e0_lightning.envs.mujoco_gl import offscreen


@pytest.fixture
def opencv(tmp_path, monkeypatch):
    """Pretend that importing OpenCV does this."""

    def pretend(code):
        (tmp_path / "cv2.py").write_text(code)
        monkeypatch.syspath_prepend(tmp_path)
        monkeypatch.delitem(sys.modules, "cv2", raising=False)

    yield pretend
    sys.modules.pop("cv2", None)


def test_a_library_that_opencv_lacks_is_named_with_its_package(opencv):
    opencv("raise ImportError('libGL.so.1: cannot open shared object file')")
    for needs in (require_libraries, offscreen.__wrapped__):
        with pytest.raises(RuntimeError, match=r"libGL.so.1: cannot(.|\n)*install -y libgl1"):
            needs()


def test_nothing_is_asked_where_no_simulator_is_installed(opencv):
    opencv("raise ModuleNotFoundError(\"No module named 'cv2'\", name='cv2')")
    require_libraries()
