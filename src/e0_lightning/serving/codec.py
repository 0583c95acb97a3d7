"""msgpack with arrays, as openpi and vla-eval write them. Nothing is ever unpickled."""

from __future__ import annotations

import io
import math
import re
from typing import Any

import numpy as np

Key = type[bytes] | type[str]
"""openpi marks arrays with byte keys, vla-eval with text keys."""

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU]\d{1,6})")
_MAX_DIMENSIONS = 8
_MAX_PIXELS = 4096 * 4096
_MAX_ITEMS = 2**16


def encode(message: Any, key: Key) -> bytes:
    """Pack plain values and arrays into one frame.

    Args:
        message: Maps, lists, text, numbers, arrays.
        key: Type of the keys that mark an array: bytes for openpi, str for vla-eval.

    Raises:
        ValueError: If an array holds anything but booleans, numbers and text.
    """
    import msgpack

    def pack(value: Any) -> Any:
        if isinstance(value, np.generic):
            return value.item()
        if not isinstance(value, np.ndarray):
            raise ValueError(f"Cannot send a {type(value).__name__}; plain values and arrays only.")
        _require_plain(value.dtype.str)
        fields = {
            "__ndarray__": True,
            "data": value.tobytes(),
            "dtype": value.dtype.str,
            "shape": list(value.shape),
        }
        return {name.encode() if key is bytes else name: item for name, item in fields.items()}

    packed: bytes = msgpack.packb(message, default=pack)
    return packed


def decode(frame: bytes | str) -> Any:
    """Unpack a frame of either protocol; arrays share the frame's memory and are read-only.

    Raises:
        ValueError: If the frame is not msgpack, or an array in it is not what it says.
    """
    import msgpack

    if isinstance(frame, str):
        raise ValueError(f"Found a text frame of {len(frame)} characters, wanted binary msgpack.")
    try:
        return msgpack.unpackb(
            frame, object_hook=_unpack, max_array_len=_MAX_ITEMS, max_map_len=_MAX_ITEMS
        )
    except Exception as error:  # whatever a stranger's bytes set off is the stranger's error
        raise ValueError(
            f"A frame of {len(frame)} bytes is not msgpack with plain arrays: {error}"
        ) from error


def _unpack(fields: dict[Any, Any]) -> Any:
    for key in (bytes, str):
        names = {name: name.encode() if key is bytes else name for name in _FIELDS}
        if names["__ndarray__"] in fields:
            dtype, shape, data = (fields[names[name]] for name in ("dtype", "shape", "data"))
            return _array(dtype, shape, data)
        if names["__npgeneric__"] in fields:
            _require_plain(fields[names["dtype"]])
            return np.dtype(fields[names["dtype"]]).type(fields[names["data"]])
    return _image(fields) if "__image__" in fields else fields


_FIELDS = ("__ndarray__", "__npgeneric__", "dtype", "shape", "data")


def _array(dtype: Any, shape: Any, data: Any) -> np.ndarray[Any, Any]:
    _require_plain(dtype)
    is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(
            f"found shape {shape!r}, wanted up to {_MAX_DIMENSIONS} whole numbers, none negative"
        )
    if not isinstance(data, bytes):
        raise ValueError(f"found array data of type {type(data).__name__}, wanted bytes")
    wanted = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != wanted:
        raise ValueError(
            f"found {len(data)} bytes, wanted {wanted} for an array {shape} of {dtype}"
        )
    return np.ndarray(shape, np.dtype(dtype), data)


def _require_plain(dtype: Any) -> None:
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError(
            f"found dtype {dtype!r}, wanted booleans, integers, floats or text; objects, records "
            "and complex numbers are refused"
        )


def _image(fields: dict[Any, Any]) -> np.ndarray[Any, Any]:
    """An image of vla-eval: raw, or compressed without loss or with it."""
    if fields["format"] == "raw":
        return _array(fields["dtype"], fields["shape"], fields["data"])
    from PIL import Image

    with Image.open(io.BytesIO(fields["data"]), formats=["PNG", "JPEG"]) as image:
        width, height = image.size
        # Looked at before decoding: a small file can unfold to gigabytes.
        if width * height > _MAX_PIXELS:
            raise ValueError(f"found {width} by {height} pixels, wanted at most {_MAX_PIXELS}")
        return np.asarray(image)
