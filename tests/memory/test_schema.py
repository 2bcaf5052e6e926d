import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from leworld.errors import ConfigError, DataError
from leworld.memory import Field, Schema, unpack_bits


@st.composite
def any_field(draw, index):
    kind, count = draw(st.sampled_from(["uint", "quantised", "float16", "bits"])), draw(st.integers(1, 5))
    name = f"f{index}"
    if kind == "uint":
        return Field(name, kind, count, draw(st.integers(1, 32)))
    if kind == "quantised":
        low = draw(st.floats(-1e3, 1e3))
        return Field(name, kind, count, draw(st.integers(1, 32)), low, low + draw(st.floats(0.01, 1e3)))
    return Field(name, kind, count)


@st.composite
def any_schema(draw):
    return Schema(tuple(draw(any_field(i)) for i in range(draw(st.integers(1, 4)))))


def values_of(field, num_records, rng):
    shape = (num_records, field.count)
    if field.kind == "uint":
        return rng.integers(0, 1 << field.width, shape)
    if field.kind == "quantised":
        return rng.uniform(field.low, field.high, shape)
    if field.kind == "float16":
        return rng.standard_normal(shape).astype(np.float16).astype(np.float32)
    return rng.integers(0, 2, shape)


@settings(max_examples=80, deadline=None)
@given(any_schema(), st.integers(0, 4), st.integers(0, 1000))
def test_unpack_inverts_pack(schema, num_records, seed):
    rng = np.random.default_rng(seed)
    values = {field.name: values_of(field, num_records, rng) for field in schema.fields}
    words = schema.pack(values)
    assert words.shape == (num_records, schema.num_words)
    assert words.dtype == np.uint32
    back = schema.unpack(words)
    for field in schema.fields:
        if field.kind == "quantised":
            assert (np.abs(back[field.name] - values[field.name]) <= field.step * 0.5 * (1 + 1e-6) + 1e-12).all()
        else:
            np.testing.assert_array_equal(back[field.name], values[field.name])
    np.testing.assert_array_equal(schema.pack(back), words)


@settings(max_examples=60, deadline=None)
@given(any_schema(), st.integers(0, 1000), st.sampled_from([0, 9]))
def test_the_linear_map_of_bits_gives_the_values_that_unpacking_gives(schema, seed, padding):
    schema = Schema(schema.fields, schema.num_words + padding)
    rng = np.random.default_rng(seed)
    words = schema.pack({field.name: values_of(field, 5, rng) for field in schema.fields})
    names = [field.name for field in schema.fields if field.kind != "float16"]
    if not names:
        return
    decode = schema.linear(names)
    bits = unpack_bits(words, np.uint8).reshape(5, -1).astype(np.float64)
    assert decode.shape == (
        schema.num_words * 32 + 1,
        sum(field.count for field in schema.fields if field.name in names),
    )
    back = schema.unpack(words)
    expected = np.concatenate([back[name] for name in names], axis=1)
    np.testing.assert_allclose(bits @ decode[:-1] + decode[-1], expected, rtol=1e-9, atol=1e-9)


def test_the_linear_map_is_of_the_fields_that_are_named_and_no_others():
    schema = Schema((Field("a", "uint", 1, 3), Field("h", "float16"), Field("b", "quantised", 2, 8, 0.0, 255.0)))
    decode = schema.linear(["b"])
    assert decode.shape == (65, 2)
    first = schema.first_bit("b")
    assert first == 32
    assert decode[first : first + 8, 0].tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert decode[first + 8 : first + 16, 1].tolist() == [1, 2, 4, 8, 16, 32, 64, 128]
    assert np.count_nonzero(decode) == 16
    with pytest.raises(ConfigError, match="field 'h' of kind float16 is not linear"):
        schema.linear(["a", "h"])


@settings(max_examples=40, deadline=None)
@given(any_schema(), st.integers(0, 1000))
def test_a_field_begins_where_it_is_said_to(schema, seed):
    rng = np.random.default_rng(seed)
    values = {field.name: values_of(field, 1, rng) for field in schema.fields}
    bits = unpack_bits(schema.pack(values), np.uint8).reshape(-1)
    for field in schema.fields:
        first = schema.first_bit(field.name)
        codes = field.encode(np.asarray(values[field.name]))
        own = bits[first : first + field.count * field.width].reshape(field.count, field.width)
        assert ((own.astype(np.uint64) << np.arange(field.width, dtype=np.uint64)).sum(-1) == codes[0]).all()


def test_fields_lie_in_order_the_least_bit_first():
    schema = Schema((Field("a", "uint", 2, 3), Field("b", "bits", 2), Field("c", "uint", 1, 5)))
    words = schema.pack({"a": [[5, 2]], "b": [[1, 0]], "c": [17]})
    assert words.tolist() == [[5 | 2 << 3 | 1 << 6 | 17 << 8]]


def test_octets_halves_and_words_never_cross_a_word():
    schema = Schema(
        (Field("odd", "uint", 1, 5), Field("octets", "uint", 3, 8), Field("half", "float16"), Field("w", "uint", 1, 32))
    )
    words = schema.pack({"odd": [0], "octets": [[255, 0, 255]], "half": [[1.0]], "w": [0xFFFFFFFF]})
    assert words.tolist() == [[0xFF00FF00, 0x3C00, 0xFFFFFFFF]]


def test_a_frame_of_64_codes_of_9_bits_has_18_words_and_crosses_them():
    codes = np.random.default_rng(0).integers(0, 512, (3, 64))
    field = Field("codes", "uint", 64, 9)
    assert Schema((field,)).num_words == 18
    padded = Schema((field,), record_words=32)
    words = padded.pack({"codes": codes})
    assert words.shape == (3, 32)
    assert not words[:, 18:].any()
    np.testing.assert_array_equal(padded.unpack(words)["codes"], codes)
    stream = unpack_bits(words, np.uint8).reshape(3, -1)[:, : 64 * 9].reshape(3, 64, 9)
    np.testing.assert_array_equal((stream * (1 << np.arange(9))).sum(-1), codes)


def test_quantised_clips_and_takes_bounds_per_element():
    schema = Schema((Field("x", "quantised", 2, 8, (-1.0, 0.0), (1.0, 100.0)),))
    back = schema.unpack(schema.pack({"x": [[-9, 250], [np.inf, -np.inf], [1.0, 50.0]]}))["x"]
    np.testing.assert_allclose(back[:2], [[-1, 100], [1, 0]])
    assert abs(back[2, 1] - 50) <= 100 / 255 / 2 + 1e-9


def test_arrays_are_bounds_too():
    field = Field("x", "quantised", 2, 8, np.array([-1, 0]), np.array([1, 2]))  # pyright: ignore[reportArgumentType]
    assert (field.low, field.high) == ((-1.0, 0.0), (1.0, 2.0))


def test_types_of_unpacked_fields():
    schema = Schema(
        (Field("u", "uint", 1, 32), Field("q", "quantised", 1, 4, 0, 1), Field("h", "float16"), Field("b", "bits"))
    )
    back = schema.unpack(schema.pack({"u": [1], "q": [0.5], "h": [0.5], "b": [True]}))
    assert [array.dtype for array in back.values()] == [np.int64, np.float64, np.float32, np.uint8]
    assert all(array.shape == (1, 1) for array in back.values())


ONE = {"u": [[1, 2]], "q": [[0.5]], "h": [[1.0]], "b": [[1, 0, 1]]}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"u": [[1, 8]]}, "holds 8"),
        ({"u": [[-1, 0]]}, "holds -1"),
        ({"u": [[1.5, 0.0]]}, "integers"),
        ({"u": [[1, 2, 3]]}, r"\(N, 2\)"),
        ({"u": [1]}, r"\(N, 2\)"),
        ({"u": [[1, 2], [1, 2]]}, "numbers of records"),
        ({"q": [[np.nan]]}, "record 0 is NaN"),
        ({"q": [["a"]]}, "numbers are needed"),
        ({"h": [[np.nan]]}, "NaN"),
        ({"h": [[70000.0]]}, "65504"),
        ({"b": [[0, 1, 2]]}, "field 'b': bit value 2"),
        ({"bb": [[0]]}, "unknown field 'bb'.*'b'"),
    ],
)
def test_values_that_do_not_fit_are_named(change, message):
    schema = Schema(
        (Field("u", "uint", 2, 3), Field("q", "quantised", 1, 8, 0, 1), Field("h", "float16"), Field("b", "bits", 3))
    )
    schema.pack(ONE)
    with pytest.raises(DataError, match=message):
        schema.pack(ONE | change)


def test_a_missing_field_is_named():
    with pytest.raises(DataError, match="'b' is missing"):
        Schema((Field("a", "bits"), Field("b", "bits"))).pack({"a": [1]})


@pytest.mark.parametrize("words", [np.zeros((1, 2), np.uint32), np.zeros(1, np.uint32), np.zeros((1, 1), np.int64)])
def test_words_of_another_shape_or_type_are_refused(words):
    with pytest.raises(DataError):
        Schema((Field("a", "bits"),)).unpack(words)


@pytest.mark.parametrize(
    "setting",
    [
        {"kind": "int"},
        {"kind": "uint"},
        {"kind": "uint", "bits": 0},
        {"kind": "uint", "bits": 33},
        {"kind": "uint", "bits": 3, "low": 0.0},
        {"kind": "float16", "bits": 8},
        {"kind": "bits", "count": 0},
        {"kind": "quantised", "bits": 8},
        {"kind": "quantised", "bits": 8, "low": 0.0},
        {"kind": "quantised", "bits": 8, "low": 1.0, "high": 1.0},
        {"kind": "quantised", "bits": 8, "low": 0.0, "high": np.inf},
        {"kind": "quantised", "bits": 8, "low": -1e308, "high": 1e308},
        {"kind": "quantised", "bits": 8, "low": (0.0, 1.0), "high": 2.0},
    ],
)
def test_bad_fields_are_refused_by_name(setting):
    with pytest.raises(ConfigError, match="'x'"):
        Field("x", **setting)


def test_bad_schemas_are_refused():
    field = Field("x", "uint", 2, 32)
    bad = [((), 0), ((field, field), 0), ((field,), 1), ((field,), 257), ((Field("x", "uint", 257, 32),), 0)]
    for fields, record_words in bad:
        with pytest.raises(ConfigError, match="schema"):
            Schema(fields, record_words)
    assert Schema((Field("x", "uint", 256, 32),)).num_words == 256
