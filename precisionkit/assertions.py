"""Assertions for tests: that predictions provably survive an arithmetic, and that results lie within their proved bounds.

`precisionkit.pytest_plugin` gives them the defaults of a test run; here everything is an argument, for any test framework.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from precisionkit.arithmetic import REFERENCE, Arithmetic
from precisionkit.bound import EFFORT
from precisionkit.bound.attribution import first_order_shares
from precisionkit.bound.interval import interval
from precisionkit.bound.linearised import linearised
from precisionkit.bound.outputs import Outputs, enclose_outputs
from precisionkit.capture import capture
from precisionkit.certify import Settings, certify
from precisionkit.data import Dataset
from precisionkit.data.dataset import Arrays, make_dataset
from precisionkit.errors import UnusableDataError, UnusableModelError, UsageError
from precisionkit.evaluate import Program
from precisionkit.formats import BINARY32
from precisionkit.graph import Graph
from precisionkit.lemma import gaps
from precisionkit.models import LoadedModel, Preprocess, load_model
from precisionkit.models.named import digest
from precisionkit.ops._store import DTYPES
from precisionkit.report import VERDICTS, Input, Report
from precisionkit.task import captured

Model = nn.Module | LoadedModel | str | Path
Batch = Tensor | NDArray[np.generic] | Dataset
LEVELS = ("proved", "probable", "observed")
"""What can be asked of a prediction, the strongest first."""
_SHOWN = 3
"""Inputs and elements that a message tells of."""
_NAMED = 3
"""Nodes that a message names for one input."""


def assert_certified(
    model: Model,
    batch: Batch,
    arithmetic: Arithmetic,
    *,
    at_least: str = "probable",
    fail_under: float = 100.0,
    arch: str | None = None,
    settings: Settings | None = None,
) -> Report:
    """Assert that running a classifier in an arithmetic does not change its predictions.

    Parameters
    ----------
    model : nn.Module or LoadedModel or str or Path
        In evaluation mode with binary32 weights; or a file or a name, as `load_model` takes it.
    batch : tensor, array or Dataset
        (n, ...) preprocessed numbers or (n, L) integer tokens; bytes are images, which a loaded model preprocesses.
    arithmetic : Arithmetic
        Of the half program.
    at_least : str
        The weakest verdict that passes: ``proved``, ``probable`` or ``observed``.
    fail_under : float
        Percent of the inputs that have to reach it.  A prediction that is seen to change, and overflow, fail in any case.
    arch : str or None
        Architecture of a file that holds only weights.
    settings : Settings or None
        By default those of `certify`, and the interval method alone where ``observed`` is enough.

    Returns
    -------
    Report
        With the verdict, the margin and the bound of every input.

    Raises
    ------
    AssertionError
        Too many predictions are weaker; the message says which, by how much, and what their bounds are made of.
    PrecisionKitError
        Of the kind that says what is unusable or unsupported.
    """
    __tracebackhide__ = True
    if at_least not in LEVELS:
        raise UsageError(f"The verdict '{at_least}' cannot be asked for; choose one of {', '.join(LEVELS)}.")
    if not 0 < fail_under <= 100:
        raise UsageError(f"fail_under is a percentage above 0 and up to 100, not {fail_under:g}.")
    loaded, data = _loaded(model, arch), _dataset(batch)
    report = certify(loaded, data, arithmetic, settings or Settings(method="interval" if at_least == "observed" else "auto"))
    if not report.complete:
        raise KeyboardInterrupt
    weak = [i for i in report.inputs if VERDICTS.index(i.verdict) > VERDICTS.index(at_least)]
    wrong = [i for i in weak if i.verdict in ("flipped", "invalid")]
    reached = 100.0 * (len(report.inputs) - len(weak)) / len(report.inputs)
    if wrong or reached < fail_under:
        raise AssertionError(_uncertified(loaded, data, arithmetic, report, sorted(weak, key=_severity), at_least, fail_under))
    return report


def _severity(one: Input) -> tuple[int, float]:
    """The weakest first, then those whose bound is furthest above the margin."""
    return -VERDICTS.index(one.verdict), (one.margin or 0.0) / one.bound if one.bound else 0.0


def _loaded(model: Model, arch: str | None) -> LoadedModel:
    if isinstance(model, str | Path):
        return load_model(model, arch=arch)
    if arch is not None:
        raise UsageError("arch names the architecture of a file; leave it out for a model in memory.")
    if isinstance(model, LoadedModel):
        return model
    module = _checked(model, (torch.float32,))
    return LoadedModel(
        module=module,
        path="(in memory)",
        sha256=digest(module),
        arch=type(model).__name__,
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        input_shape=None,
        classes=None,
        preprocess=Preprocess(),
    )


def _checked(module: nn.Module, dtypes: tuple[torch.dtype, ...]) -> nn.Module:
    """Copy a module in evaluation mode with parameters of one of the dtypes, as binary32 on the CPU."""
    if not isinstance(module, nn.Module):
        raise UnusableModelError(f"The model is a {type(module).__name__}; give a torch.nn.Module, or the path of a file.")
    if module.training:
        raise UsageError("The model is in training mode, where layers such as dropout act at random; call its eval() first.")
    numbers = [*module.parameters(), *module.buffers()]
    if wrong := sorted({str(p.dtype) for p in numbers if p.is_floating_point() and p.dtype not in dtypes}):
        allowed = " or ".join(str(dtype) for dtype in dtypes)
        raise UsageError(f"The model has numbers in {', '.join(wrong)}; give it in {allowed}, from which the half program is made here.")
    return copy.deepcopy(module).float().cpu()


def _dataset(batch: Batch) -> Dataset:
    if isinstance(batch, Dataset):
        return batch
    if isinstance(batch, np.ndarray) and batch.dtype == np.uint8:
        images: NDArray[np.generic] = batch
    else:
        images = _numbers(batch).numpy()
    return make_dataset(Arrays(images, None), name="(in memory)")


def _numbers(batch: Tensor | NDArray[np.generic]) -> Tensor:
    """Numbers as binary32, if they are such, or tokens as int64; on the CPU."""
    try:
        given = torch.as_tensor(batch).detach().cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise UnusableDataError(f"The batch is a {type(batch).__name__}; give a tensor or an array, one row for each input.") from error
    if not given.is_floating_point():
        return given if given.dtype == torch.uint8 else given.long()
    numbers = given.float()
    if not torch.equal(numbers.double().nan_to_num(), given.double().nan_to_num()):
        raise UnusableDataError(f"The batch is in {given.dtype} and holds numbers that are none of float32; round it first: batch.float().")
    return numbers


@dataclass(frozen=True)
class _Attributed:
    """What the bound of one input is made of, to first order."""

    rival: int
    total: float
    parts: tuple[tuple[str, float], ...]


def _uncertified(
    model: LoadedModel, data: Dataset, arithmetic: Arithmetic, report: Report, weak: list[Input], at_least: str, fail_under: float
) -> str:
    count, share = len(report.inputs), 100.0 * (len(report.inputs) - len(weak)) / len(report.inputs)
    shown = weak[:_SHOWN]
    open_ = [one for one in shown if one.verdict not in ("flipped", "invalid") and one.bound is not None]
    made_of = _attribute(model, data, arithmetic, [one.index for one in open_]) if open_ else []
    attributed = {one.index: parts for one, parts in zip(open_, made_of, strict=True)}
    lines = [
        f"{len(weak)} of {count} predictions are not '{at_least}' in {arithmetic.name} (method {report.method}); "
        f"{share:.4g} % are, {fail_under:g} % were asked for.",
        *(f"  input {one.index}: {_described(one, attributed.get(one.index))}" for one in shown),
    ]
    if len(weak) > len(shown):
        lines.append("  and inputs " + _listed([one.index for one in weak[len(shown) :]]))
    return "\n".join([*lines, _way_out(weak, arithmetic, at_least, share)])


def _described(one: Input, attributed: _Attributed | None) -> str:
    margin = "" if one.margin is None else f", margin {one.margin:.3g}"
    if one.verdict == "flipped":
        off = "" if one.measured_error is None else f", which the two runs differ by {one.measured_error:.3g} in"
        return f"flipped from class {one.prediction_reference} to {one.prediction_half}{margin}{off}"
    if one.verdict == "invalid" or one.bound is None:
        return f"{one.verdict}{margin}: {one.reason}"
    if one.verdict == "probable":
        return f"probable{margin}, bound {one.bound:.3g} with a probability of failure of {one.failure:.0e}"
    above = f", bound {one.bound:.3g}" + (f", {one.bound / one.margin:.3g} times the margin" if one.margin else "")
    return f"{one.verdict}{margin}{above}{_parts(one, attributed)}"


def _parts(one: Input, attributed: _Attributed | None) -> str:
    if attributed is None or not attributed.total > 0:
        return ""
    named = [f"{100 * part / attributed.total:.0f} % {name}" for name, part in attributed.parts[:_NAMED]]
    sharper = one.margin is not None and attributed.total < one.margin
    within = ", less than the margin, so a sharper method might prove it" if sharper else ""
    return f"; to first order {attributed.total:.3g} against class {attributed.rival}{within}: {', '.join(named)}"


def _way_out(weak: list[Input], arithmetic: Arithmetic, at_least: str, share: float) -> str:
    verdicts = {one.verdict for one in weak}
    if "invalid" in verdicts:
        return "Rescale the layer that overflows, or choose storage='bf16', whose range is that of binary32."
    flipped, ways = "flipped" in verdicts, []
    if arithmetic.storage != BINARY32:
        ways.append("choose a more precise format, such as storage='fp32'")
    if arithmetic.order.name == "any" and not flipped:
        ways.append("name the order of sums of the machine that it will run on")
    weaker = {"proved": "probable", "probable": "observed"}.get(at_least)
    if weaker is not None and not flipped:
        ways.append(f"ask for at_least='{weaker}'")
    if not flipped and share > 0:
        ways.append(f"allow for inputs close to a decision boundary, fail_under={np.floor(share * 10) / 10:g}")
    return f"To pass, {'; or '.join(ways)}." if ways else "These inputs lie on a decision boundary: leave them out of the batch."


def _listed(indices: list[int]) -> str:
    first = ", ".join(map(str, sorted(indices)[:20]))
    return first + (f" and {len(indices) - 20} more." if len(indices) > 20 else ".")


def _attribute(model: LoadedModel, data: Dataset, arithmetic: Arithmetic, rows: list[int]) -> list[_Attributed]:
    """Against the class that comes closest, of the half program's nodes, the reference program, and the rounding of weights and inputs."""
    images = torch.cat([model.preprocess(data.images[row : row + 1], row) for row in rows])
    graph = captured(model, data, tuple(images.shape[1:]))
    programs = [Program.of(graph, each) for each in (REFERENCE, arithmetic)]
    stored = [program.inputs(images) for program in programs]
    centres = [interval(program, inputs).centre for program, inputs in zip(programs, stored, strict=True)]
    classes = centres[0].argmax(1)
    errors = sum(linearised(program, inputs, classes).worst for program, inputs in zip(programs, stored, strict=True))
    of_reference, of_half = (torch.from_numpy(gaps(centre.numpy(), classes.numpy())) for centre in centres)
    moved = (of_half - of_reference).abs()
    rivals = (of_reference - errors - moved).scatter(1, classes[:, None], torch.inf).argmin(1)
    reference, half = (first_order_shares(p, inputs, classes, rivals) for p, inputs in zip(programs, stored, strict=True))
    nodes = {node.name: str(node) for node in graph.nodes}
    found = []
    for row, rival in enumerate(rivals.tolist()):
        parts = [(nodes[name], float(part[row])) for name, part in half.by_node.items()]
        others = [("the rounding of weights and inputs", float(moved[row, rival]))]
        if arithmetic != REFERENCE:
            others.append(("the reference program", float(reference.total[row])))
        parts = sorted((*parts, *others), key=lambda part: -part[1])
        found.append(_Attributed(rival, sum(part for _, part in parts), tuple(parts)))
    return found


@dataclass(frozen=True)
class Closeness:
    """How close a result is to the exact network, in units of what an arithmetic allows.

    Attributes
    ----------
    largest_share : float
        Largest error of an element as a share of its bound; at most 1.
    outputs : Outputs
        The exact results and the bounds.
    """

    largest_share: float
    outputs: Outputs


def proved_bounds(model: nn.Module, x: Tensor, arithmetic: Arithmetic, *, effort: float = EFFORT) -> Outputs:
    """Compute the exact results, and how far every run of the arithmetic can be from each; arguments as for `assert_close_proved`."""
    return _bounded(model, x, arithmetic, effort)[1]


def _bounded(model: nn.Module, x: Tensor, arithmetic: Arithmetic, effort: float) -> tuple[Graph, Outputs]:
    module = _checked(model, tuple(dict.fromkeys((torch.float32, DTYPES[arithmetic.storage]))))
    inputs = _numbers(x)
    graph = capture(module, tuple(inputs.shape[1:]), inputs.dtype)
    if graph.removed:
        raise UnusableModelError(
            "The model ends with a softmax, before which the bounds end; compare the logits: take the softmax out of the model."
        )
    program = Program.of(graph, arithmetic)
    return graph, enclose_outputs(program, program.inputs(inputs), effort)


def assert_close_proved(actual: Tensor, model: nn.Module, x: Tensor, arithmetic: Arithmetic, *, effort: float = EFFORT) -> Closeness:
    """Assert that a result lies within the proved bounds of an arithmetic around the exact network, element by element.

    Parameters
    ----------
    actual : (batch, classes) tensor
        What some machine, library or compiler made of the model and x, in any dtype, on any device.
    model : nn.Module
        In evaluation mode, with weights in binary32 or, if they were rounded already, in the storage format.
    x : (batch, ...) tensor
        The input, numbers of binary32 or integer tokens; the program rounds it to the storage format.
    arithmetic : Arithmetic
        That the result is said to come from.
    effort : float
        Limit of the work for one input, in forward passes; 0 leaves it with the interval method.

    Returns
    -------
    Closeness

    Raises
    ------
    AssertionError
        An element is further from the exact network than any run of the arithmetic can be, or there is no bound for it.
    PrecisionKitError
        Of the kind that says what is unusable or unsupported.

    Notes
    -----
    A failure is a proof that no run of the arithmetic gives the result (theorems 14 and 16 of proofs/bounds.md): a correctly rounded
    difference is above a bound only if the exact one is.
    """
    __tracebackhide__ = True
    graph, outputs = _bounded(model, x, arithmetic, effort)
    found = torch.as_tensor(actual).detach().cpu().double()
    if found.shape != outputs.centre.shape:
        raise UsageError(
            f"The result has the shape {tuple(found.shape)}, but the model gives {tuple(outputs.centre.shape)} for this input."
        )
    unbounded = ~outputs.radius.isfinite()
    if unbounded.any():
        raise AssertionError(_unbounded(graph, outputs, arithmetic))
    error = (found - outputs.centre).abs().nan_to_num(torch.inf, posinf=torch.inf)
    if (error > outputs.radius).any():
        raise AssertionError(_not_close(found, error, outputs, arithmetic))
    shares = torch.where(error > 0, error / outputs.radius, 0.0)
    return Closeness(float(shares.max()), outputs)


def _unbounded(graph: Graph, outputs: Outputs, arithmetic: Arithmetic) -> str:
    row = int((~outputs.radius.isfinite()).any(1).nonzero()[0])
    place = int(outputs.overflow[row])
    if place < 0:
        return f"Input {row} has no bound in {arithmetic.name}: the enclosures grow beyond all numbers. Give fewer layers, or more effort."
    return (
        f"Input {row} has no bound in {arithmetic.name}: overflow of {arithmetic.storage.name} is not excluded at {graph.nodes[place]}. "
        "Rescale that layer, or choose storage='bf16', whose range is that of binary32."
    )


def _not_close(found: Tensor, error: Tensor, outputs: Outputs, arithmetic: Arithmetic) -> str:
    shares = torch.where(error > outputs.radius, error / outputs.radius, 0.0)
    outside = int((error > outputs.radius).sum())
    lines = [
        f"{outside} of {error.numel()} elements are further from the exact network than any run of {arithmetic.name} can be:",
        *(_element(place, found, error, outputs) for place in shares.flatten().argsort(descending=True)[: min(_SHOWN, outside)].tolist()),
        "So they come from another arithmetic, another model or another input: 'precisionkit probe' tells which arithmetics a device's "
        "kernels contradict.",
    ]
    return "\n".join(lines)


def _element(place: int, found: Tensor, error: Tensor, outputs: Outputs) -> str:
    row, column = divmod(place, error.shape[1])
    value, exact, off, bound = (float(t[row, column]) for t in (found, outputs.centre, error, outputs.radius))
    times = f"{off / bound:.3g} times" if bound else "infinitely many times"
    return f"  element [{row}, {column}]: {value:.9g} in place of {exact:.9g}, off by {off:.3g}, {times} its bound {bound:.3g}"
