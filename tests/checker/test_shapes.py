"""What fits, what the result has, and what is refused before anything is computed."""

import pytest

from precisionkit.checker import shapes

SLIDING = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1]}
CONV, POOL = {**SLIDING, "groups": 1}, {**SLIDING, "kernel_size": [2, 2]}
FITS = (
    (shapes.linear, {}, [(3,), (2, 3), None], (2,)),
    (shapes.linear, {}, [(5, 3), (2, 3), (2,)], (5, 2)),
    (shapes.conv2d, CONV, [(3, 6, 7), (4, 3, 3, 2), (4,)], (4, 4, 6)),
    (shapes.conv2d, {**CONV, "groups": 2, "stride": [2, 2], "padding": [1, 0]}, [(4, 6, 7), (2, 2, 3, 2), None], (2, 3, 3)),
    (shapes.max_pool2d, {**POOL, "padding": [1, 1], "stride": [2, 2]}, [(3, 6, 7)], (3, 4, 4)),
    (shapes.max_pool2d, {**POOL, "dilation": [2, 3]}, [(3, 6, 7)], (3, 4, 4)),
    (shapes.batch_norm, {}, [(3, 2, 2), *[(3,)] * 4], (3, 2, 2)),
    (shapes.add, {}, [(3, 2), (3, 2)], (3, 2)),
    (shapes.relu, {}, [(3, 2)], (3, 2)),
    (shapes.view, {"shape": [6]}, [(3, 2)], (6,)),
)
UNFIT = (
    (shapes.linear, {}, [(3,), (2, 4), None], "weights of the shape"),
    (shapes.linear, {}, [(3,), (1, 2, 3), None], "weights of the shape"),
    (shapes.linear, {}, [(3,), (2, 3), (1,)], "a bias of the shape"),
    (shapes.linear, {}, [(3,), (2, 3), ()], "a bias of the shape"),
    (shapes.linear, {}, [(), (2, 3), None], "weights of the shape"),
    (shapes.conv2d, CONV, [(3, 6), (4, 3, 3, 2), None], "none of a convolution"),
    (shapes.conv2d, CONV, [(3, 6, 7), (4, 3, 3, 2, 1), None], "none of a convolution"),
    (shapes.conv2d, CONV, [(3, 6, 7), (4, 3, 0, 2), None], "none of a convolution"),
    (shapes.conv2d, CONV, [(3, 6, 7), (4, 2, 3, 2), None], "1 groups"),
    (shapes.conv2d, {**CONV, "groups": 3}, [(3, 6, 7), (4, 1, 3, 2), None], "3 groups"),
    (shapes.conv2d, CONV, [(3, 6, 7), (4, 3, 3, 2), (1,)], "a bias of the shape"),
    (shapes.conv2d, CONV, [(3, 2, 7), (4, 3, 3, 2), None], "do not fit an image"),
    (shapes.conv2d, {**CONV, "padding": [60000, 60000]}, [(3, 6, 7), (4, 3, 3, 2), None], "larger than the checker takes"),
    (shapes.max_pool2d, {**POOL, "padding": [2, 0]}, [(3, 6, 7)], r"padding of \[2, 0\] is more than half"),
    (shapes.max_pool2d, {**POOL, "kernel_size": [300, 300], "padding": [150, 150]}, [(3, 6, 7)], "more entries than the checker takes"),
    (shapes.max_pool2d, POOL, [(6, 7)], "no image"),
    (shapes.batch_norm, {}, [(3, 2, 2), (3,), (3,), (3,), (1,)], "statistics of the shapes"),
    (shapes.batch_norm, {}, [(3, 2, 2), *[(1, 3)] * 4], "statistics of the shapes"),
    (shapes.add, {}, [(3, 2), (1, 2)], "are added"),
    (shapes.view, {"shape": [2, 2]}, [(3, 2)], "is seen as one of"),
)


@pytest.mark.parametrize(("rule", "attributes", "operands", "wanted"), FITS)
def test_what_fits_has_a_shape(rule, attributes, operands, wanted):
    assert rule(attributes, *operands) == wanted


@pytest.mark.parametrize(("rule", "attributes", "operands", "why"), UNFIT)
def test_what_does_not_fit_is_told(rule, attributes, operands, why):
    with pytest.raises(ValueError, match=why):
        rule(attributes, *operands)


def test_large_arrays_are_told():
    assert shapes.require_small((2**13, 2**13)) is None
    with pytest.raises(ValueError, match="larger than the checker takes"):
        shapes.require_small((2**13, 2**13 + 1))
