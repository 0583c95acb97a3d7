"""The codec: agreement with the clients' codecs, and refusal of invalid frames."""

import pickle
import struct
from contextlib import suppress

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from e0_lightning.serving.codec import decode, encode
from e0_lightning.serving.limits import MAX_DEPTH, MAX_ELEMENTS

KINDS = arrays.boolean_dtypes() | arrays.integer_dtypes() | arrays.unsigned_integer_dtypes()
ARRAYS = arrays.arrays(
    KINDS | arrays.floating_dtypes(sizes=(32, 64)), arrays.array_shapes(min_dims=0, min_side=0)
)
SCALARS = st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text() | st.binary()
MARKERS = st.sampled_from(
    ["__ndarray__", "__npgeneric__", "__image__", "data", "dtype", "shape", "format", "image"]
)
KEYS = MARKERS | MARKERS.map(str.encode) | st.text(max_size=5)
FORMS = st.sampled_from(["|u1", "<f4", "|O", "<U3", "raw", "png", "jpeg", b"", 2**63, -1])
MALFORMED = st.recursive(
    SCALARS | FORMS | st.lists(st.integers(-1, 2**40), max_size=9),
    lambda inner: st.dictionaries(KEYS, inner | FORMS, max_size=6) | st.lists(inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(frame=st.binary(max_size=200) | MALFORMED.map(msgpack.packb))
def test_any_bytes_are_decoded_or_raise_value_error(frame):
    with suppress(ValueError):
        decode(frame)


@settings(max_examples=60, deadline=None)
@given(array=ARRAYS, key=st.sampled_from([bytes, str]), cut=st.integers(1, 30))
def test_arrays_survive_a_round_trip_and_truncated_frames_are_refused(array, key, cut):
    frame = encode({"a": array}, key)
    decoded = decode(frame)["a"]
    assert decoded.dtype == array.dtype
    np.testing.assert_array_equal(decoded, array)
    assert not decoded.flags.writeable
    with pytest.raises(ValueError, match="expected msgpack"):
        decode(frame[:-cut])


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS)
def test_arrays_are_exchanged_with_openpis_codec(array):
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="no openpi-client")
    np.testing.assert_array_equal(decode(theirs.packb(array)), array)
    np.testing.assert_array_equal(theirs.unpackb(encode(array, bytes)), array)


@settings(max_examples=40, deadline=None)
@given(array=ARRAYS)
def test_arrays_are_exchanged_with_vla_evals_codec(array):
    theirs = pytest.importorskip("vla_eval.protocol.numpy_codec", reason="no vla-eval")
    packed = msgpack.packb(array, default=theirs.encode_ndarray)
    np.testing.assert_array_equal(decode(packed), array)
    unpacked = msgpack.unpackb(encode(array, str), object_hook=theirs.decode_ndarray)
    np.testing.assert_array_equal(unpacked, array)


@pytest.mark.parametrize("value", [np.float32(1.5), np.int64(-3), np.bool_(True), np.str_("go")])
def test_numpy_scalars_of_openpi_are_decoded(value):
    theirs = pytest.importorskip("openpi_client.msgpack_numpy", reason="no openpi-client")
    assert decode(theirs.packb({"a": value}))["a"] == value


def array(dtype, shape, data):
    return msgpack.packb({b"__ndarray__": True, b"data": data, b"dtype": dtype, b"shape": shape})


@pytest.mark.parametrize(
    "dtype", ["|O", "O8", "|V8", "<c8", "<M8[ns]", "i4,f8", "u1" * 99, 7, "|S0", "<U0", "<U999999"]
)
def test_dtypes_other_than_numbers_and_text_are_refused(dtype):
    with pytest.raises(ValueError, match="refused"):
        decode(array(dtype, [1], pickle.dumps({})))


def test_arrays_of_invalid_code_points_are_refused():
    with pytest.raises(ValueError, match="expected msgpack with plain arrays"):
        decode(array("<U1", [1], b"\xff\xff\xff\xff"))


COMPLEX = {
    "empty maps": b"\xdd" + struct.pack(">I", 10**6) + b"\x80" * 10**6,
    "a list that claims four billion items": b"\xdd\xff\xff\xff\xff",
    "a map that claims four billion items": b"\xdf\xff\xff\xff\xff",
    "lists of lists": msgpack.packb([[0] * 100] * (MAX_ELEMENTS // 100 + 1)),
    "nested lists": b"\x91" * 10**6 + b"\x80",
    "one level too many": b"\x91" * MAX_DEPTH + b"\x80",
    "long text": msgpack.packb("a" * 10**6),
    "a long array of text": array("|S100000", [1], b"a" * 100_000),
    "an extension type": msgpack.packb(msgpack.ExtType(1, b"a")),
}


@pytest.mark.parametrize("frame", COMPLEX.values(), ids=COMPLEX)
def test_frames_beyond_the_limits_are_refused(frame):
    with pytest.raises(ValueError, match=f"a frame of {len(frame)} bytes") as refusal:
        decode(frame)
    assert len(str(refusal.value)) < 500


def test_frames_up_to_the_limits_are_decoded():
    numbers = [0.5] * (MAX_ELEMENTS - 1)
    assert decode(msgpack.packb(numbers)) == numbers
    assert decode(b"\x91" * (MAX_DEPTH - 1) + b"\x80")
    image = np.zeros((2000, 2000, 3), np.uint8)
    assert decode(encode({"image": image}, bytes))["image"].shape == image.shape


def test_objects_are_not_encoded():
    with pytest.raises(ValueError, match="objects"):
        encode(np.array([{}], dtype=object), bytes)
    with pytest.raises(ValueError, match="set"):
        encode({1, 2}, str)
