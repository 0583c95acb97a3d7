"""The codec: clients and we read each other, and what strangers send is refused."""

import struct
import zlib

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from e0_lightning.serving.codec import decode, encode

KINDS = arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.unsigned_integer_dtypes()
ARRAYS = arrays.arrays(
    KINDS | arrays.floating_dtypes(sizes=(32, 64)), arrays.array_shapes(min_dims=0, min_side=0)
)
PLAIN = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
MARKS = st.sampled_from(
    ["__ndarray__", "__npgeneric__", "__image__", "data", "dtype", "shape", "format", "image"]
)
KEYS = MARKS | MARKS.map(str.encode) | st.text(max_size=5)
FORMS = st.sampled_from(["|u1", "<f4", "|O", "<U3", "raw", "png", "jpeg", b"", 2**63, -1])
CROOKED = st.recursive(
    PLAIN | FORMS | st.lists(st.integers(-1, 2**40), max_size=9),
    lambda inner: st.dictionaries(KEYS, inner | FORMS, max_size=6) | st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(frame=st.binary(max_size=200) | CROOKED.map(msgpack.packb))
def test_a_strangers_bytes_decode_or_are_refused(frame):
    try:
        answer = f"{len(frame)} bytes: {decode(frame)}"
    except ValueError as error:
        answer = str(error)
    assert f"{len(frame)} bytes" in answer


@settings(max_examples=60, deadline=None)
@given(array=ARRAYS, key=st.sampled_from([bytes, str]), cut=st.integers(1, 30))
def test_arrays_come_back_and_shortened_frames_do_not(array, key, cut):
    frame = encode({"a": array}, key)
    found = decode(frame)["a"]
    assert found.dtype == array.dtype
    np.testing.assert_array_equal(found, array)
    assert not found.flags.writeable
    with pytest.raises(ValueError, match="not msgpack"):
        decode(frame[:-cut])


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS)
def test_openpis_codec_and_ours_read_each_other(array):
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="no openpi-client")
    np.testing.assert_array_equal(decode(theirs.packb(array)), array)
    np.testing.assert_array_equal(theirs.unpackb(encode(array, bytes)), array)


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS)
def test_vla_evals_codec_and_ours_read_each_other(array):
    theirs = pytest.importorskip("vla_eval.protocol.numpy_codec", reason="no vla-eval")
    packed = msgpack.packb(array, default=theirs.encode_ndarray)
    np.testing.assert_array_equal(decode(packed), array)
    unpacked = msgpack.unpackb(encode(array, str), object_hook=theirs.decode_ndarray)
    np.testing.assert_array_equal(unpacked, array)


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("go")])
def test_numpy_scalars_of_openpi_arrive(value):
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="no openpi-client")
    assert decode(theirs.packb({"a": value}))["a"] == value


def test_an_image_that_unfolds_to_gigabytes_is_refused():
    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"0"))
    with pytest.raises(ValueError, match=r"60000 by 60000|decompression bomb"):
        decode(msgpack.packb({"__image__": True, "format": "png", "data": png}))


def test_objects_are_never_packed():
    with pytest.raises(ValueError, match="objects"):
        encode(np.array([{}], dtype=object), bytes)
    with pytest.raises(ValueError, match="set"):
        encode({1, 2}, str)
