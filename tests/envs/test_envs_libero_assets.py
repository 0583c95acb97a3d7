import tarfile

import pytest

from e0_lightning.envs import libero_assets
from e0_lightning.envs.libero_assets import FOLDERS, find_assets, unpack


def folder_of_assets(path):
    for name in FOLDERS:
        (path / "assets" / name).mkdir(parents=True)
    return path / "assets"


def test_an_archive_is_unpacked_once(tmp_path):
    made = folder_of_assets(tmp_path / "source")
    with tarfile.open(tmp_path / "pack.tar.xz", "w:xz") as file:
        file.add(made, "assets")
    folder = unpack(tmp_path / "pack.tar.xz", tmp_path / "cache")
    assert sorted(each.name for each in folder.iterdir()) == sorted(FOLDERS)
    (folder / "mark").touch()
    assert (unpack(tmp_path / "pack.tar.xz", tmp_path / "cache") / "mark").exists()


def test_a_damaged_archive_leaves_no_partial_result(tmp_path):
    (tmp_path / "pack.tar.xz").write_bytes(b"\xfd7zXZ\x00 and then nothing")
    with pytest.raises(ValueError, match="cannot be unpacked"):
        unpack(tmp_path / "pack.tar.xz", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_an_archive_without_assets_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no meshes")
    with tarfile.open(tmp_path / "pack.tar", "w") as file:
        file.add(tmp_path / "notes.txt", "notes.txt")
    with pytest.raises(ValueError, match=r"expected a folder `assets`.*got \['notes.txt'\]"):
        unpack(tmp_path / "pack.tar", tmp_path / "cache")


def test_an_incomplete_assets_folder_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path)
    monkeypatch.setenv("LIBERO_ASSETS", str(tmp_path))
    with pytest.raises(ValueError, match="got one without articulated_objects"):
        find_assets()


def test_missing_assets_are_an_error_with_advice(tmp_path, monkeypatch):
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path)
    monkeypatch.setattr(libero_assets, "ASSET_PACKAGE", "not_installed")
    monkeypatch.delenv("LIBERO_ASSETS", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.snapshot_download", unreachable)
    with pytest.raises(RuntimeError, match="set LIBERO_ASSETS to"):
        find_assets()


def test_the_asset_package_is_found_without_a_variable(tmp_path, monkeypatch):
    folder = folder_of_assets(tmp_path / "asset_package")
    (tmp_path / "asset_package" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path / "package")
    monkeypatch.setattr(libero_assets, "ASSET_PACKAGE", "asset_package")
    monkeypatch.delenv("LIBERO_ASSETS", raising=False)
    assert find_assets() == (folder, "asset_package", False)


def unreachable(*args, **kwargs):
    raise ConnectionError("no network")


def test_a_reduced_pack_is_detected(tmp_path, monkeypatch):
    folder = folder_of_assets(tmp_path)
    monkeypatch.setattr(libero_assets, "package", lambda: tmp_path / "package")
    monkeypatch.setenv("LIBERO_ASSETS", str(folder))
    assert not find_assets().reduced
    (folder / "NOTICE.txt").write_text("LIBERO assets, reduced and partly replaced")
    assert find_assets().reduced
