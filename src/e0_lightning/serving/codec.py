"""msgpack with arrays, in the encodings of openpi and vla-eval. Nothing is unpickled."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np

from e0_lightning.serving.images import EncodedImage
from e0_lightning.serving.limits import MAX_DEPTH, MAX_ELEMENTS, MAX_TEXT, shorten

Key = type[bytes] | type[str]
"""openpi marks arrays by bytes keys, vla-eval by str keys."""

_DTYPE = re.compile(r"[<>|=]?(b1|[iu][1248]|f[248]|[SU][1-9]\d{0,4})")
_FIELDS = ("__ndarray__", "__npgeneric__", "dtype", "shape", "data")
_MAX_DIMENSIONS = 8

_SIZED = {
    **{0xC4 + i: ("binary", code) for i, code in enumerate("BHI")},
    **{0xD9 + i: ("text", code) for i, code in enumerate("BHI")},
    **{0xDC + i: ("list", code) for i, code in enumerate("HI")},
    **{0xDE + i: ("map", code) for i, code in enumerate("HI")},
}
"""msgpack's first byte to the kind of value and the format of the length that follows."""

_FIXED = dict(
    zip(
        [0xC0, 0xC2, 0xC3, *range(0xCA, 0xD4)], [0, 0, 0, 4, 8, 1, 2, 4, 8, 1, 2, 4, 8], strict=True
    )
)
"""First byte of nil, booleans, floats and integers to the number of bytes that follow."""


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
            raise ValueError(f"expected plain values and arrays, got a {type(value).__name__}.")
        _check_dtype(value.dtype.str)
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

    The numbers of elements and their nesting are checked before anything is built, so that the
    time this takes does not depend on the client. Compressed images stay compressed.

    Raises:
        ValueError: If the frame is not msgpack, is too complex, or holds an invalid array.
    """
    import msgpack

    if isinstance(frame, str):
        raise ValueError(
            f"expected a binary frame of msgpack, got a text frame of {len(frame)} characters."
        )
    try:
        _check_structure(frame)
        return msgpack.unpackb(frame, object_hook=_unpack)
    except Exception as error:  # errors that a client's bytes cause are the client's
        raise ValueError(
            f"expected msgpack with plain arrays, got a frame of {len(frame)} bytes: "
            f"{shorten(str(error), 300) or type(error).__name__}"
        ) from error


def _check_structure(frame: bytes) -> None:
    """Bound elements, nesting and text of a msgpack value without decoding it."""
    unread, position, count = [1], 0, 1
    while unread:
        if unread[-1] == 0:
            unread.pop()
            continue
        unread[-1] -= 1
        if position >= len(frame):
            raise ValueError("it ends early")
        head = frame[position]
        position += 1
        kind, size = "", 0
        if 0x80 <= head <= 0x9F:
            kind, size = ("map" if head < 0x90 else "list"), head & 0xF
        elif 0xA0 <= head <= 0xBF:
            kind, size = "text", head & 0x1F
        elif head in _SIZED:
            kind, code = _SIZED[head]
            (size,) = struct.unpack_from(f">{code}", frame, position)
            position += struct.calcsize(code)
        elif head in _FIXED:
            position += _FIXED[head]
        elif 0x7F < head < 0xE0:
            raise ValueError(f"byte {head:#x} starts an extension or is not in use")
        if kind in ("map", "list"):
            children = size * (2 if kind == "map" else 1)
            count += children
            if count > MAX_ELEMENTS:
                raise ValueError(f"expected at most {MAX_ELEMENTS} elements, got {count} or more")
            if len(unread) > MAX_DEPTH:
                raise ValueError(f"expected at most {MAX_DEPTH} nested maps and lists, got more")
            unread.append(children)
        elif kind:
            if kind == "text" and size > MAX_TEXT:
                raise ValueError(f"expected texts of at most {MAX_TEXT} bytes, got {size}")
            position += size
    if position != len(frame):
        raise ValueError(f"expected {position} bytes by its own lengths, got {len(frame)}")


def _unpack(fields: dict[Any, Any]) -> Any:
    for key in (bytes, str):
        names = {name: name.encode() if key is bytes else name for name in _FIELDS}
        if names["__ndarray__"] in fields:
            dtype, shape, data = (fields[names[name]] for name in ("dtype", "shape", "data"))
            return _array(dtype, shape, data)
        if names["__npgeneric__"] in fields:
            _check_dtype(fields[names["dtype"]])
            return np.dtype(fields[names["dtype"]]).type(fields[names["data"]])
    if "__image__" not in fields:
        return fields
    if fields["format"] == "raw":
        return _array(fields["dtype"], fields["shape"], fields["data"])
    return EncodedImage(fields["data"])


def _array(dtype: Any, shape: Any, data: Any) -> np.ndarray[Any, Any]:
    _check_dtype(dtype)
    is_shape = isinstance(shape, list) and all(type(n) is int and n >= 0 for n in shape)
    if not is_shape or len(shape) > _MAX_DIMENSIONS:
        raise ValueError(
            f"expected a shape of up to {_MAX_DIMENSIONS} integers from 0, "
            f"got {shorten(repr(shape), 80)}"
        )
    if not isinstance(data, bytes):
        raise ValueError(f"expected array data as bytes, got a {type(data).__name__}")
    expected = math.prod(shape) * np.dtype(dtype).itemsize
    if len(data) != expected:
        raise ValueError(
            f"expected {expected} bytes for an array {shape} of {dtype}, got {len(data)}"
        )
    array: np.ndarray[Any, Any] = np.ndarray(shape, np.dtype(dtype), data)
    if array.dtype.kind in "SU":
        if array.nbytes > MAX_TEXT:
            raise ValueError(f"expected texts of at most {MAX_TEXT} bytes, got {array.nbytes}")
        array.tolist()  # raises on code points outside of Unicode
    return array


def _check_dtype(dtype: Any) -> None:
    if not isinstance(dtype, str) or not _DTYPE.fullmatch(dtype):
        raise ValueError(
            "expected a dtype of booleans, integers, floats or non-empty text, "
            f"got {shorten(repr(dtype), 80)}; objects, records and complex numbers are refused"
        )
