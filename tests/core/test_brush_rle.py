import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from mobile_sam.core.brush_rle import mask_to_brush


def unpack(packed: list[int]) -> list[int]:
    """Read the values by the format's description, one bit after the other."""
    bits = "".join(f"{byte:08b}" for byte in packed)
    place = 0

    def read(num_bits: int) -> int:
        nonlocal place
        place += num_bits
        assert place <= len(bits)
        return int(bits[place - num_bits : place], 2)

    num_values, value_bits = read(32), read(5) + 1
    widths = [read(4) + 1 for _ in range(4)]
    values: list[int] = []
    while len(values) < num_values:
        is_run, width = read(1), widths[read(2)]
        length = read(width) + 1
        values += [read(value_bits)] * length if is_run else [read(value_bits) for _ in range(length)]
    return values


# What label_studio_sdk 2.1.2's `converter.brush.mask2rle` gave for these masks times 255. It ends in a byte of zeros
# where the bits fill the last byte, which its decoder never reads.
FROM_LABEL_STUDIO = {
    "bar": [0, 0, 0, 60, 57, 27, 254, 23, 0, 183, 255, 133, 192, 0],
    "empty": [0, 0, 0, 16, 57, 27, 253, 240, 0],
    "one pixel": [0, 0, 0, 4, 57, 27, 252, 127, 224],
}


def bar():
    mask = np.zeros((3, 5), bool)
    mask[1, 1:4] = True
    return mask


@pytest.mark.parametrize(
    ("name", "mask"), [("bar", bar()), ("empty", np.zeros((2, 2), bool)), ("one pixel", np.ones((1, 1), bool))]
)
def test_bytes_are_those_of_label_studios_own_encoder(name, mask):
    assert mask_to_brush(mask) == FROM_LABEL_STUDIO[name]


@settings(max_examples=200, deadline=None)
@given(arrays(bool, array_shapes(min_dims=2, max_dims=2, max_side=40)))
def test_a_decoder_gets_back_the_mask_in_all_four_channels(mask):
    values = np.array(unpack(mask_to_brush(mask))).reshape(*mask.shape, 4)
    np.testing.assert_array_equal(values, np.where(mask, 255, 0)[..., None].repeat(4, axis=2))


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 3), st.sampled_from([16383, 16384, 16385, 32768, 40000]), st.booleans())
def test_runs_longer_than_a_block_holds_are_kept(height, width, value):
    mask = np.full((height, width), value)
    mask[-1, -1] = not value
    values = np.array(unpack(mask_to_brush(mask))).reshape(height, width, 4)
    np.testing.assert_array_equal(values[..., 3] == 255, mask)


@pytest.mark.parametrize("mask", [np.zeros((0, 5), bool), np.zeros((2, 2), np.uint8), np.zeros(4, bool)])
def test_what_is_no_mask_is_refused(mask):
    with pytest.raises(ValueError, match="mask must"):
        mask_to_brush(mask)
