import pytest

from e0_lightning.envs import mujoco_gl


def test_a_fallback_to_osmesa_is_a_warning(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_gl, "_probe", {"egl": "no display", "osmesa": ""}.get)
    with pytest.warns(UserWarning, match=r"EGL does not work here \(no display\).*OSMesa"):
        assert mujoco_gl.offscreen.__wrapped__() == "osmesa"


def test_without_any_backend_both_reasons_are_given(monkeypatch):
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr(mujoco_gl, "_probe", {"egl": "no display", "osmesa": "no library"}.get)
    with pytest.raises(RuntimeError, match=r"(?s)EGL: no display.*OSMesa: no library.*apt-get"):
        mujoco_gl.offscreen.__wrapped__()
