"""In the checker of certificates: its bounds, its transposes, what it believes of a file."""

from __future__ import annotations

from .record import mutant

_BOUNDS, _FILE = "checker/test_bounds.py", "checker/test_certificate.py"
_OPERATORS, _PROOF, _ROUNDING, _CERTIFICATE = (f"checker/{name}.py" for name in ("operators", "proof", "rounding", "certificate"))
_RUNS = f"{_BOUNDS}::test_every_run_lies_in_every_enclosure_and_keeps_every_gap"
_OWN = f"{_BOUNDS}::test_the_checkers_own_rounding_is_paid_for"
_COST = f"{_BOUNDS}::test_a_functional_costs_what_it_costs_in_rational_numbers_and_hardly_more"
_RELU = f"{_BOUNDS}::test_relu_lies_between_its_lines_and_in_its_image"
_ENDS = f"{_BOUNDS}::test_both_ends_of_open_neurons_lie_below_the_upper_line"
_MAXIMUM = f"{_BOUNDS}::test_a_maximum_lies_between_its_lines_and_in_its_image"
_TAMPERING = f"{_FILE}::test_tampering_is_refused"

CHECKER = (
    mutant(
        "one addition too few",
        _OPERATORS,
        "np.maximum(nonzero + (bias is not None) - 1, 0.0)",
        "np.maximum(nonzero + (bias is not None) - 2, 0.0)",
        f"{_BOUNDS}::test_of_half_products_nothing_is_lost_but_the_additions",
    ),
    mutant(
        "a bias is no term",
        _OPERATORS,
        "np.maximum(nonzero + (bias is not None) - 1, 0.0)",
        "np.maximum(nonzero - 1, 0.0)",
        f"{_BOUNDS}::test_a_bias_is_one_more_term",
    ),
    mutant(
        "products of binary32 are exact",
        _OPERATORS,
        "2 * rule.storage.precision <=",
        "rule.storage.precision <=",
        f"{_BOUNDS}::test_a_rounded_product_attains_its_bound",
    ),
    mutant("the centre is exact", _OPERATORS, "add_up(products, additions, own)", "add_up(products, additions)", _OWN),
    mutant(
        "a product that an open input alone makes does not count",
        _OPERATORS,
        "((x.mid != 0) | (x.radius != 0))",
        "(x.mid != 0)",
        f"{_BOUNDS}::test_a_product_of_an_input_that_may_be_zero_counts",
    ),
    mutant(
        "a convolution never stores before its bias",
        _OPERATORS,
        "if bias is None or rule.storage == rule.accumulate:",
        "if True:",
        f"{_BOUNDS}::test_a_convolution_may_store_before_it_adds_its_bias",
    ),
    mutant(
        "the rounding of functionals is free",
        _OPERATORS,
        "return add_up(mul_up(weighted_up(np.abs(g), result.carried[rows]), terms * U), below)",
        "return below",
        f"{_BOUNDS}::test_a_functional_that_cancels_pays_for_its_rounding",
    ),
    mutant(
        "kernels are flipped in the transpose",
        _OPERATORS,
        "padded[:, :, rows, columns] += pieces[:, :, tap]",
        "padded[:, :, rows, columns] += pieces[:, :, -1 - tap]",
        f"{_BOUNDS}::test_transposes_are_transposes",
    ),
    mutant("the upper line of ReLU ends at the left end alone", _OPERATORS, "np.maximum(left, right))", "left)", _ENDS),
    mutant("the upper line of ReLU ends at the right end alone", _OPERATORS, "np.maximum(left, right))", "right)", _ENDS),
    mutant(
        "a ReLU is open on one side alone",
        _OPERATORS,
        "x.mid > 0, x.mid >= x.down, x.mid <= -x.up",
        "x.mid > 0, x.mid >= 0, x.mid <= -x.up",
        _RELU,
    ),
    mutant("functionals below zero take the upper line", _OPERATORS, "np.where(g > 0, g * slope, g * lower)", "g * slope", _COST),
    mutant(
        "the offset of a line is free",
        _OPERATORS,
        "return (pulled,), add_up(weighted_up(positive, above), _product_lost(pulled, rows, x))",
        "return (pulled,), _product_lost(pulled, rows, x)",
        _COST,
    ),
    mutant(
        "a maximum has no rival",
        _OPERATORS,
        "above = np.maximum(add_up(others.max(axis=2), down), 0.0)",
        "above = np.maximum(add_up(others.max(axis=2), 0.0), 0.0)",
        _MAXIMUM,
    ),
    mutant(
        "batch normalisation rounds half as often",
        _OPERATORS,
        "_CHAIN = 11",
        "_CHAIN = 1",
        f"{_BOUNDS}::test_batch_normalisation_rounds_as_often_as_theorem_7_says",
    ),
    mutant(
        "a store is exact", _PROOF, "add_up(result.fresh, rule.storage.store_error(magnitude))", "result.fresh", _RUNS, keyword="bf16-dense"
    ),
    mutant(
        "partial sums do not overflow",
        _PROOF,
        " & (result.peak <= result.form.largest)",
        "",
        f"{_BOUNDS}::test_a_partial_sum_that_may_overflow_leaves_no_gap",
    ),
    mutant(
        "local errors of the last node alone",
        _PROOF,
        "weighted_up(np.abs(here), trace.local[node.name][rows])",
        "weighted_up(np.abs(here), trace.local[name][rows] * (node.name == name))",
        _COST,
        keyword="one or dense",
    ),
    mutant(
        "a node's second use is forgotten",
        _PROOF,
        "part = functionals[operand] + part",
        "part = functionals[operand]",
        _COST,
        keyword="residual",
    ),
    mutant(
        "a neuron is settled in one direction",
        _PROOF,
        "((1.0, up), (-1.0, down))",
        "((1.0, up), (1.0, down))",
        f"{_BOUNDS}::test_settling_is_for_both_directions",
    ),
    mutant(
        "gaps that are no numbers are left out",
        _PROOF,
        "rival = lower.argmin(axis=1)",
        "rival = np.where(np.isnan(lower), np.inf, lower).argmin(axis=1)",
        f"{_BOUNDS}::test_a_gap_that_is_no_number_is_the_least",
    ),
    mutant(
        "the other logit's deviation is forgotten",
        _PROOF,
        "g[row, classes[images]] -= 1.0",
        "g[row, classes[images]] -= 0.0",
        _RUNS,
        keyword="one",
    ),
    mutant(
        "ufp is one place too low",
        _ROUNDING,
        "np.ldexp(1.0, exponent - 1)",
        "np.ldexp(1.0, exponent - 2)",
        f"{_BOUNDS}::test_unit_in_the_first_place",
    ),
    mutant(
        "no underflow",
        _ROUNDING,
        "np.maximum(ufp(magnitude) * self.unit_roundoff, self.eta)",
        "ufp(magnitude) * self.unit_roundoff",
        f"{_BOUNDS}::test_half_an_ulp_is_attained_above_a_power_of_two_and_below_the_normal_range",
    ),
    mutant(
        "stores of half a number beyond the range are finite",
        _ROUNDING,
        "np.where(magnitude < self.overflow_threshold, error, np.inf)",
        "error",
        f"{_BOUNDS}::test_half_an_ulp_is_attained_above_a_power_of_two_and_below_the_normal_range",
    ),
    mutant(
        "the seal is not compared",
        _CERTIFICATE,
        "if seal != hashlib.sha256(statement).hexdigest().encode():",
        "if not seal:",
        _TAMPERING,
        keyword="blank",
    ),
    mutant(
        "arrays are not compared with their hashes",
        _CERTIFICATE,
        'if hashlib.sha256(content[f"{name}.npy"]).hexdigest() != digests[name]:',
        'if not content[f"{name}.npy"]:',
        _TAMPERING,
        keyword="a_weight or pixel or weight",
    ),
    mutant(
        "statistics may broadcast",
        "checker/shapes.py",
        "all(shape == (x[0],) for shape in parameters)",
        "True",
        _TAMPERING,
        keyword="one_variance or variance",
    ),
    mutant(
        "members may be larger than the archive says",
        _CERTIFICATE,
        "member.read(info.file_size + 1)",
        "member.read()",
        f"{_FILE}::test_no_more_is_unpacked_than_the_archive_says",
    ),
    mutant(
        "windows may lie in the padding alone",
        "checker/shapes.py",
        "2 * p <= k for p, k in zip(padding, kernel, strict=True)",
        "p >= 0 for p, k in zip(padding, kernel, strict=True)",
        "checker/test_shapes.py::test_what_does_not_fit_is_told",
    ),
    mutant(
        "a claim need not be what is derived",
        "checker/__init__.py",
        "np.abs(least - claimed) <= _SAME * scale",
        "np.abs(least - claimed) <= np.inf * scale",
        _TAMPERING,
        keyword="gap",
    ),
    mutant(
        "what is claimed need not be derived",
        "checker/__init__.py",
        "wrong = ~(least > 0)",
        "wrong = ~(claimed > 0)",
        f"{_FILE}::test_a_gap_that_cannot_be_derived_is_refused_as_such",
    ),
)
