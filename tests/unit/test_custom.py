"""Operators of one's own: the example of the documentation, what is refused, and what is found wrong in a record."""

import importlib
import re
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from precisionkit.arithmetic import parse_arithmetic
from precisionkit.bound import adjoint, interval, substitution
from precisionkit.capture import capture
from precisionkit.catalogue import catalogue, find
from precisionkit.cli import main
from precisionkit.custom import Contract, Custom, Function, Use, check_operator, function_operator, load_operators, registered
from precisionkit.errors import InvalidOperatorError, UnsupportedOperatorError, UsageError
from precisionkit.evaluate import Program, execute
from precisionkit.ops import BY_NAME, BY_TARGET

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "custom-operators.md"
NAME = "my_operators"


@pytest.fixture(scope="module")
def example(tmp_path_factory):
    """The module that the document writes, imported once, and the folder that it lies in."""
    module, _ = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    folder = tmp_path_factory.mktemp("example")
    (folder / f"{NAME}.py").write_text(module)
    sys.path.insert(0, str(folder))
    yield importlib.import_module(NAME)
    sys.path.remove(str(folder))
    del sys.modules[NAME]


@pytest.fixture
def made(example):
    """A network of the example with inputs, in binary16."""
    torch.manual_seed(0)
    with registered(*example.RECORDS):
        program = Program.of(capture(example.Net().eval(), (8,)), parse_arithmetic("fp16"))
        yield program, program.inputs(torch.randn(16, 8))


def test_the_document_says_what_works(example, capsys):
    _, use = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(), re.DOTALL)
    exec(use, {"torch": torch})
    assert "tensor([[" in capsys.readouterr().out
    assert "quadratic_relu" not in BY_NAME


@pytest.mark.parametrize("method", [interval, substitution, adjoint])
def test_runs_stay_inside_the_bounds(made, method):
    program, inputs = made
    found = method(program, inputs)
    for native in (False, True):
        logits = execute(program, inputs, native=native).logits
        gap = logits - logits.gather(1, found.classes[:, None])
        middle = found.centre - found.centre.gather(1, found.classes[:, None])
        assert found.gap_error.isfinite().all()
        assert ((gap - middle).abs() <= found.gap_error).all()


def test_the_command_line_takes_records(example, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(example.Net().state_dict(), "net.pt")
    np.savez("data.npz", images=np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32))
    net = ["net.pt", "--arch", f"{NAME}:Net", "--data", "data.npz"]
    own = ["--operators", f"{NAME}:RECORDS"]
    result = CliRunner().invoke(main, ["certify", *net, *own], catch_exceptions=False)
    assert result.exit_code == 0, result.stderr
    assert "The record of operator 'neighbours' (mylib.neighbours.default) is the user's own" in " ".join(result.stdout.split())
    assert CliRunner().invoke(main, ["inspect", *net, *own]).exit_code == 0
    assert CliRunner().invoke(main, ["inspect", *net]).exit_code == 1
    assert CliRunner().invoke(main, ["lemma", *net, *own, "--arb", "2", "--mpmath", "1"]).exit_code == 0
    assert "mylib.quadratic_relu.default" in CliRunner().invoke(main, ["ops", "quadratic", *own]).stdout
    refused = CliRunner().invoke(main, ["certify", *net])
    assert refused.exit_code == 2
    assert re.search(r"node 'quadratic_relu' \(my_operators\.py:\d+: return", refused.stderr)


# --------------------------------------------------------------------------------------------------------------- registering
def test_records_are_known_within_the_block_alone(example):
    before = dict(BY_NAME), dict(BY_TARGET)
    with registered(*example.RECORDS):
        assert BY_TARGET["mylib.neighbours.default"].name == "neighbours"
        assert find(catalogue(), "neighbours").operators[0].targets == ("mylib.neighbours.default",)
        graph = capture(example.Net(), (8,))
    assert (dict(BY_NAME), dict(BY_TARGET)) == before
    with pytest.raises(ZeroDivisionError), registered(*example.RECORDS):
        1 / 0  # noqa: B018
    assert (dict(BY_NAME), dict(BY_TARGET)) == before
    with pytest.raises(UnsupportedOperatorError, match="register a record for it"):
        capture(example.Net(), (8,))
    with pytest.raises(UsageError, match=r"'quadratic_relu' is no longer registered: do everything .* within one block"):
        _ = graph.hidden


def test_names_and_targets_are_taken_once(example):
    first = example.QUADRATIC_RELU
    other = replace(first, name="other")
    cases = [
        ((first, first), r"^There is a record of the name 'quadratic_relu' already: choose another name\.$"),
        ((first, other), r"mylib\.quadratic_relu\.default has a record already, 'quadratic_relu'"),
        ((replace(first, name="relu"),), r"There is a record of the name 'relu' already"),
        ((replace(BY_NAME["abs"], name="own_abs"),), r"aten\.abs\.default has a record already, 'abs'"),
        ((lifted("aten.numpy_T.default"),), r"is read without a record of its own \('precisionkit ops aten\.numpy_T\.default'\)"),
    ]
    for records, message in cases:
        with pytest.raises(InvalidOperatorError, match=message), registered(*records):
            pass
    with registered(first), pytest.raises(InvalidOperatorError, match="already"), registered(first):
        pass
    assert "quadratic_relu" not in BY_NAME


def lifted(target):
    """The identity, for an operator that moves nothing on matrices."""
    return replace(BY_NAME["neg"], name="own_move", targets=(target,), apply=lambda _, x: x.T)


def test_records_are_loaded_by_name(example):
    assert load_operators(f"{NAME}:RECORDS") == example.RECORDS
    assert load_operators(f"{NAME}:QUADRATIC_RELU") == (example.QUADRATIC_RELU,)
    for name, message in [
        (NAME, r"^The name 'my_operators' of the operators is not of the form package\.module:name, as in mine\.records:MINE\.$"),
        (f"{NAME}:nothing", r"has no nothing, for the operators my_operators:nothing: name something that it defines\.$"),
        (f"{NAME}:RECORD", r"has no RECORD, for the operators my_operators:RECORD: the nearest names are RECORDS\.$"),
        ("no_such_module_here:RECORDS", r"no module no_such_module_here"),
        (f"{NAME}:Net", r"^The operators my_operators:Net hold a type: name an Operator or Custom of precisionkit\.custom"),
    ]:
        with pytest.raises(UsageError, match=message):
            load_operators(name)


# -------------------------------------------------------------------------------------------------------------------- checks
SOFTSIGN_LIKE = Function(
    value=lambda _, x: torch.tanh(x),
    slope=lambda _, x: 1 - torch.tanh(x) ** 2,
    steepest=lambda _, where: 1.0,
    curvature=lambda _, where: 0.77,
    exact=lambda engine, _, x: (1 - engine.exp(-2 * x)) / (1 + engine.exp(-2 * x)),
    contract=Contract(result=8),
)


def own(function=SOFTSIGN_LIKE, **parts):
    record = function_operator("own_tanh", ("aten.tanh.default",), function, bound="|f'| e + .77 e^2 / 2")
    return replace(record, **parts)


WRONG_FUNCTIONS = {
    "slope": ({"slope": lambda _, x: torch.full_like(x, 0.5)}, r"linear moves the result by .*more than the second order .*correct its linear"),
    "curvature": ({"curvature": lambda _, where: 0.01}, r"linear moves the result by .*more than the second order"),
    "steepest": ({"steepest": lambda _, where: 0.1}, r"(in an enclosure|more than the)"),
    "contract": ({"contract": Contract(result=-0.9)}, r"at entry \(\d, \d+\), where the operand is .* gives .*, which is .* from .*, more than the bound"),
    "exact": ({"exact": lambda engine, _, x: x}, r"apply in binary64 gives .* from .*, more than the bound"),
    "value": ({"value": lambda _, x: torch.tanh(x) * 1.001}, r"gives .*, which is .* from"),
    "exact fails": ({"exact": lambda engine, _, x: engine.tanh(x)}, r"exact fails with AttributeError \('Mpmath' object has no attribute 'tanh'\)"),
    "complex": ({"exact": lambda engine, _, x: engine.sqrt(x - 1000)}, r"exact does not give an array of the engine's real numbers"),
    "no rounding": ({"contract": None}, r"more than the bound"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_FUNCTIONS)
def test_wrong_functions_are_refused_with_the_values(name):
    parts, message = WRONG_FUNCTIONS[name]
    with pytest.raises(InvalidOperatorError, match=message) as caught:
        check_operator(own(replace(SOFTSIGN_LIKE, **parts)))
    said = str(caught.value)
    assert said.startswith("The record of operator 'own_tanh' is wrong: ")
    assert re.search(r" numbers, \S+/\S+, shapes \(\(2, 12\),\), attributes \{\}\); correct its [a-z_, ()]+\.$", said)


def no_rows(attributes, g, rows, x):
    return (g.double() * (1 - torch.tanh(x.centre) ** 2),)


def mixing(attributes, deviations, rows, x):
    return (deviations[0] * (1 - torch.tanh(x.centre[rows]) ** 2)).flip(1)


WRONG_RECORDS = {
    "rows of the transpose": ({"transpose": no_rows}, r"transpose is not the transpose of linear for operand 0, or takes rows for other images"),
    "sign of the transpose": ({"transpose": lambda a, g, rows, x: (-own().transpose(a, g, rows, x)[0],)}, r"transpose is not the transpose of linear"),
    "no transpose": ({"transpose": lambda *_: (None,)}, r"transpose gives no functional of the shape of operand 0"),
    "rows of linear": ({"linear": lambda a, d, rows, x: d[0] * (1 - torch.tanh(x.centre) ** 2).expand(len(rows), -1)[: len(rows)]}, r"linear (takes rows for other images|fails with|gives)"),
    "mixed entries": ({"linear": mixing}, r"linear (moves|mixes)"),
    "shape of linear": ({"linear": lambda a, d, rows, x: d[0].sum(1)}, r"linear gives the shape \(2,\), and not \(2, 12\)"),
    "shape": ({"apply": lambda _, x: torch.tanh(x)[:, :3]}, r"apply gives \(2, 3\) in torch.float32, but aten.tanh.default gives \(2, 12\)"),
    "dtype": ({"apply": lambda _, x: torch.tanh(x).double()}, r"apply gives \(2, 12\) in torch.float64, but"),
    "batch": ({"apply": lambda _, x: torch.tanh(x) + 0 * x.mean() + (x.shape[0] > 1)}, r"image 0 alone than in its batch"),
    "no bound": ({"error_rule": lambda *_: None}, r"error_rule gives a NoneType, and not a Bounded"),
    "negative": ({"error_rule": lambda *o: replace(own().error_rule(*o), carried=-torch.ones(2, 12).double())}, r"gives a carried that is negative"),
    "arguments": ({"error_rule": lambda arithmetic, x: x}, r"error_rule fails with TypeError"),
    "kinks": ({"kinks": lambda _: 1 / 0}, r"^Checking the record of operator 'own_tanh' on the use .* failed with ZeroDivisionError"),
    "parts": ({"error_rule": lambda *o: replace(own().error_rule(*o), peak="high")}, r"failed with TypeError .*: correct what its functions return\.$"),
    "stores": ({"stores": False}, r"error_rule says that it rounds \(fresh\), but the record that it does not store"),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG_RECORDS)
def test_wrong_records_are_refused(name):
    parts, message = WRONG_RECORDS[name]
    with pytest.raises(InvalidOperatorError, match=message):
        check_operator(own(**parts))


UNUSABLE = {
    "target": ({"targets": ("tanh",)}, (), r"has the target 'tanh'; it must be of the form library\.name\.overload"),
    "unknown": ({"targets": ("mylib.nothing.default",)}, (), r"is for mylib\.nothing\.default, which torch does not have: import what defines it first\.$"),
    "in place": ({"targets": ("aten.tanh_.default",)}, (), r"returns no tensor, or writes into its arguments"),
    "operands": ({"operands": ("x",)}, (), r"has the operands x, but the tensors of aten\.tanh\.default are self: name those\.$"),
    "name": ({"name": "own tanh"}, (), r"The name 'own tanh' of a record is no identifier"),
    "linear": ({"linear": None}, (), r"has no linear: give the derivative at the centre\.$"),
    "hidden": ({"hidden": True}, (), r"has statistics or lines"),
    "batch of one": ({}, (Use(((1, 4),)),), r"is none to check it on: give a shape, or None, for each of self, of at most 256 numbers, with the same batch"),
    "large": ({}, (Use(((2, 1000),)),), r"of at most 256 numbers"),
    "no shape": ({}, (Use(()),), r"is none to check it on"),
    "check": ({"check": lambda *_: "never"}, (), r"does not support its own use .*: never\.$"),
    "failing": ({}, (Use(((2, 3),), {"approximate": 1}),), r"^torch's operator aten\.tanh\.default fails with "),
}  # fmt: skip


@pytest.mark.parametrize("name", UNUSABLE)
def test_unusable_records_are_refused(name):
    parts, uses, message = UNUSABLE[name]
    with pytest.raises(InvalidOperatorError, match=message):
        check_operator(own(**parts), *uses)


def test_a_record_that_claims_nothing_is_refused():
    silent = replace(SOFTSIGN_LIKE, steepest=lambda _, w: torch.inf, contract=Contract(result=torch.inf))
    with pytest.raises(InvalidOperatorError, match=r"claims nothing of any number tried"):
        check_operator(own(silent))


def test_an_operator_of_several_operands_needs_uses():
    with pytest.raises(InvalidOperatorError, match=r"say what to check it on, as Custom\(record, \(Use\(shapes\),\)\)\.$"):
        check_operator(BY_NAME["maximum"])


def test_a_transpose_that_rounds_more_often_than_it_says_is_refused():
    record = BY_NAME["mean"]
    use = Use(((2, 4, 5),), {"dim": (1,)})
    check_operator(record, use)
    repeated = replace(BY_NAME["adaptive_avg_pool2d"], targets=("aten.adaptive_avg_pool2d.default",))
    use = Use(((2, 1, 2, 2),), {"output_size": (8, 8)})
    check_operator(repeated, use)
    with pytest.raises(InvalidOperatorError, match=r"rounds more often than transposed_terms says, 1 times"):
        check_operator(replace(repeated, transposed_terms=lambda *_: 1), use)


BUILT_IN = [
    ("log", Use(((2, 6),), low=1e-3)),
    ("leaky_relu", Use(((2, 12),), {"negative_slope": 0.2})),
    ("clamp", Use(((2, 12),), {"min": -0.3, "max": 0.7})),
    ("linear", Use(((2, 9), (3, 9), (3,)), constants=(1, 2))),
    ("mul", Use(((2, 6), (2, 6)))),
    ("maximum", Use(((2, 6), (6,)), constants=(1,))),
    ("cat", Use(((2, 3), (2, 2)), {"dim": 1})),
    ("matmul", Use(((2, 3, 5), (2, 5, 4)))),
]


@pytest.mark.parametrize(("name", "use"), BUILT_IN, ids=[name for name, _ in BUILT_IN])
def test_records_of_the_toolkit_pass(name, use):
    record = BY_NAME[name]
    check_operator(replace(record, targets=record.targets[:1]), use)


def test_uses_can_be_given_with_the_record(example):
    wrong = Custom(example.NEIGHBOURS, (Use(((2, 1),)),))
    with pytest.raises(InvalidOperatorError, match="neighbours"), registered(wrong):
        pass
