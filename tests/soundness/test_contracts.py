"""Elementary functions against their contracts, on every finite number of the half formats and on some of binary32."""

from dataclasses import replace

import pytest

from precisionkit.ops.functions import FUNCTIONS
from tests.contracts import FORMATS, USES, findings

WITHOUT_CONTRACT = ("clamp", "hardtanh", "relu6", "abs", "neg")
"""They choose among numbers, and round nothing."""


def test_every_function_that_rounds_has_a_contract_that_is_measured():
    assert {record.name for record in FUNCTIONS if record.stores} == {use.function for use in USES}
    assert {record.name for record in FUNCTIONS if not record.stores} == set(WITHOUT_CONTRACT)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f.name)
@pytest.mark.parametrize("use", USES, ids=str)
def test_kernels_keep_the_contract(use, fmt):
    found = list(findings(use, fmt))
    assert {f.kernel for f in found} >= {fmt.name, f"{fmt.name}, strided"}
    for finding in found:
        assert finding.compared >= 16_000
        assert finding.share <= 1, finding


@pytest.mark.parametrize("name", ["sigmoid", "erf", "rsqrt", "gelu"])
def test_a_contract_that_is_too_small_is_found(name):
    use = next(u for u in USES if u.function == name)
    small = replace(use.contract, result=use.contract.result / 8, argument=use.contract.argument / 8, absolute=use.contract.absolute / 8)
    assert max(f.share for f in findings(replace(use, contract=small), FORMATS[0])) > 1
