"""Exported programs that attack or are damaged: nothing of them runs, and each ends in one sentence, soon."""

from __future__ import annotations

import io
import pickle
import time
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from precisionkit.errors import UnusableModelError
from precisionkit.models import load_model
from tests.programs import CONSTANTS, GRAPH, WEIGHTS, Parts, exported, small_net, spoiled, tensor, zipped

Edit = Callable[[Parts], None]
SECONDS = 10  # for one file; a loaded machine takes a tenth


@pytest.fixture(scope="module")
def good() -> bytes:
    return exported(small_net(), (1, 8, 8))


def refused(data: bytes, folder: Path, message: str, **options: Any) -> None:
    path = folder / "net.pt2"
    path.write_bytes(data)
    start = time.monotonic()
    with pytest.raises(UnusableModelError, match=message) as caught:
        load_model(path, **options)
    assert time.monotonic() - start < SECONDS
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert str(caught.value).isascii()
    assert str(caught.value).endswith(".")


class Bomb:
    """Writes a marker file when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.write_text, (self.marker, "boom")


def _saved(content: object) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream)
    return stream.getvalue()


def _expression(marker: Path) -> dict[str, Any]:
    code = f"__import__('pathlib').Path({str(marker)!r}).write_text('boom')"
    return {"as_expr": {"expr_str": code, "hint": {"as_int": 2}}}


def _sample_inputs(parts: Parts, marker: Path) -> None:
    parts.entries["data/sample_inputs/model.pt"] = _saved(Bomb(marker))


def _pickled_weight(parts: Parts, marker: Path) -> None:
    parts.weights["config"]["0.weight"]["use_pickle"] = True
    parts.entries["data/weights/weight_0"] = _saved(Bomb(marker))


def _pickled_constant(parts: Parts, marker: Path) -> None:
    parts.constants["config"]["c"] = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": True, "tensor_meta": None}
    parts.entries["data/constants/opaque_obj_0"] = pickle.dumps(Bomb(marker))


def _legacy_weights(parts: Parts, marker: Path) -> None:
    del parts.entries[WEIGHTS]
    parts.entries["data/weights/model.pt"] = _saved(Bomb(marker))


def _size_of_the_input(parts: Parts, marker: Path) -> None:
    parts.values["x" if "x" in parts.values else "input"]["sizes"][0] = _expression(marker)


def _size_of_a_result(parts: Parts, marker: Path) -> None:
    parts.values["conv2d"]["sizes"][0] = _expression(marker)
    parts.graph["graph_module"]["graph"]["sym_int_values"]["s"] = _expression(marker)


def _size_of_a_weight(parts: Parts, marker: Path) -> None:
    parts.weights["config"]["0.weight"]["tensor_meta"]["sizes"][0] = _expression(marker)


def _guards(parts: Parts, marker: Path) -> None:
    parts.graph["guards_code"] = [_expression(marker)["as_expr"]["expr_str"]]


EXPLOITS: dict[str, tuple[Callable[[Parts, Path], None], str | None]] = {
    "sample inputs": (_sample_inputs, None),
    "pickled weight": (_pickled_weight, r"stores 0\.weight as a pickle, which can run code and is not opened"),
    "pickled constant": (_pickled_constant, "stores c as a pickle, which can run code and is not opened"),
    "legacy weights": (_legacy_weights, "as PyTorch before 2.9 wrote it with pickled weights, which are not opened"),
    "size of the input": (
        _size_of_the_input,
        r"was exported for the input shape \(__import__.*, but the batch, and only the batch, must be free",
    ),
    "size of a result": (_size_of_a_result, None),
    "size of a weight": (_size_of_a_weight, r"the tensor 0\.weight has a size, stride or offset that is not a number"),
    "guards": (_guards, None),
}


@pytest.mark.parametrize(("edit", "message"), EXPLOITS.values(), ids=EXPLOITS)
def test_an_exploit_leaves_no_trace(tmp_path: Path, good: bytes, edit: Callable[[Parts, Path], None], message: str | None) -> None:
    marker = tmp_path / "marker"
    data = spoiled(good, lambda parts: edit(parts, marker))
    if message is None:  # what carries the code is not looked at, so the file is good
        (tmp_path / "net.pt2").write_bytes(data)
        x = torch.randn(3, 1, 8, 8)
        assert torch.equal(load_model(tmp_path / "net.pt2").module(x), small_net()(x))
    else:
        refused(data, tmp_path, message)
    assert not marker.exists()


@pytest.mark.parametrize("edit", [_sample_inputs, _pickled_weight, _size_of_a_result])
def test_the_exploits_are_real(tmp_path: Path, good: bytes, edit: Callable[[Parts, Path], None]) -> None:
    marker = tmp_path / "marker"
    data = spoiled(good, lambda parts: edit(parts, marker))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.export.load(io.BytesIO(data))
        except Exception:  # the code has run by then
            assert marker.exists()
    assert marker.exists()


def _call(target: str, output: str = "extra", /, **arguments: Any) -> Edit:
    return lambda parts: parts.add(target, output, **arguments)


OPERATORS: dict[str, tuple[Edit, str]] = {
    "file": (
        _call("torch.ops.aten.from_file.default", filename={"as_string": "/etc/passwd"}),
        r"calls the operator 'torch\.ops\.aten\.from_file\.default' \(node 'extra'\), which is not one of those",
    ),
    "own namespace": (_call("torch.ops.mine.read.default", x=tensor("linear")), r"calls the operator 'torch\.ops\.mine\.read\.default'"),
    "higher order": (_call("torch.ops.higher_order.cond", p={"as_bool": True}), r"calls the operator 'torch\.ops\.higher_order\.cond'"),
    "python": (_call("builtins.eval", source={"as_string": "1"}), r"calls the operator 'builtins\.eval'"),
    "attribute": (_call("torch.ops.aten.add.__class__", self=tensor("linear")), r"calls the operator 'torch\.ops\.aten\.add\.__class__'"),
    "text operator": (
        _call("torch.ops.aten.add.str", a={"as_string": "a"}, b={"as_string": "b"}),
        r"calls the operator 'torch\.ops\.aten\.add\.str'",
    ),
    "random": (
        _call("torch.ops.aten.rand_like.default", self=tensor("linear")),
        r"calls the operator 'torch\.ops\.aten\.rand_like\.default'",
    ),
    "out": (
        _call("torch.ops.aten.relu.out", self=tensor("linear"), out=tensor("p_0_weight")),
        r"calls the operator 'torch\.ops\.aten\.relu\.out'",
    ),
    "subgraph": (
        _call("torch.ops.aten.relu.default", self={"as_graph": {"name": "g", "graph": {}}}),
        r"holds the argument 'self' of the operator 'torch\.ops\.aten\.relu\.default' as 'as_graph', which is not read",
    ),
    "object": (
        _call("torch.ops.aten.relu.default", self={"as_custom_obj": {"name": "o", "class_fqn": "c"}}),
        "as 'as_custom_obj', which is not read",
    ),
    "two types": (_call("torch.ops.aten.relu.default", self=tensor("linear") | {"as_int": 1}), "has 2 types instead of one"),
    "no type": (_call("torch.ops.aten.relu.default", self={}), "has 0 types instead of one"),
    "unknown dtype": (
        _call("torch.ops.aten.to.dtype", self=tensor("linear"), dtype={"as_scalar_type": 99}),
        r"the argument 'dtype' of the operator 'torch\.ops\.aten\.to\.dtype' is 99, which is no value of as_scalar_type",
    ),
    "no such argument": (_call("torch.ops.aten.relu.default", self=tensor("linear"), x={"as_int": 1}), "has no argument 'x'"),
    "lacking argument": (_call("torch.ops.aten.relu.default"), r"the operator 'torch\.ops\.aten\.relu\.default' lacks its argument 'self'"),
    "wrong type": (
        _call("torch.ops.aten.relu.default", self={"as_string": "a"}),
        r"its operator 'aten\.relu\.default' at node 'extra' cannot run on a batch of 3 \(",
    ),
    "wrong shape": (
        _call("torch.ops.aten.mm.default", self=tensor("linear"), mat2=tensor("linear")),
        r"its operator 'aten\.mm\.default' at node 'extra' cannot run",
    ),
    "self reference": (_call("torch.ops.aten.relu.default", self=tensor("extra")), "uses 'extra', which is not computed before"),
    "later name": (lambda parts: parts.nodes.reverse(), "uses '.*', which is not computed before"),
    "unknown name": (_call("torch.ops.aten.relu.default", self=tensor("nothing")), "uses 'nothing', which is not computed before"),
    "dropped name": (lambda parts: parts.nodes.pop(0), "uses 'conv2d', which is not computed before"),
    "same name": (_call("torch.ops.aten.relu.default", "linear", self=tensor("linear")), "the name 'linear' is defined twice"),
    "name of a weight": (
        _call("torch.ops.aten.relu.default", "p_0_weight", self=tensor("linear")),
        "the name 'p_0_weight' is defined twice",
    ),
    "text times number": (_call("_operator.mul", a={"as_string": "a" * 99}, b={"as_int": 2**40}), "is given something other than numbers"),
    "list times number": (_call("_operator.mul", a={"as_ints": [1, 2]}, b={"as_int": 2**40}), "is given something other than numbers"),
    "one for several": (_call("torch.ops.aten.unbind.int", self=tensor("linear")), "cannot run on a batch of 3 .*several results"),
    "huge": (
        _call("torch.ops.aten.full.default", size={"as_ints": [2**20, 2**20]}, fill_value={"as_int": 0}),
        "needs a tensor of 366503875925 numbers for one image, and at most 268435456 are allowed",
    ),
    "huge inside": (lambda parts: _product(parts), r"'aten\.matmul\.default' at node 'extra' needs a tensor of \d+ numbers for one image"),
    "beyond 63 bits": (
        _call("torch.ops.aten.full.default", size={"as_ints": [2**62, 2**62]}, fill_value={"as_int": 0}),
        "cannot run on a batch of 3",
    ),
    "number beyond 64 bits": (
        _call("torch.ops.aten.mul.Scalar", self=tensor("linear"), other={"as_int": 2**80}),
        "cannot be read|cannot run",
    ),
    "many pieces": (
        lambda parts: (
            parts.add("torch.ops.aten.split.Tensor", self=tensor("long"), split_size={"as_int": 1}) or parts.nodes.insert(0, _long())
        ),
        "cuts a tensor into 1000000 pieces, and at most 10000 are allowed",
    ),
}


def _long() -> dict[str, Any]:
    arguments = {"end": {"as_int": 10**6}, "device": {"as_device": {"type": "cuda", "index": 3}}}
    inputs = [{"name": name, "arg": value, "kind": 1} for name, value in arguments.items()]
    return {"target": "torch.ops.aten.arange.default", "inputs": inputs, "outputs": [tensor("long")], "metadata": {}}


def _product(parts: Parts) -> None:
    """Operands and result are small, but the product copies its operands many times."""
    parts.add("torch.ops.aten.zeros.default", "left", size={"as_ints": [256, 1, 1, 2**19]})
    parts.add("torch.ops.aten.zeros.default", "right", size={"as_ints": [1, 256, 2**19, 1]})
    parts.add("torch.ops.aten.matmul.default", self=tensor("left"), other=tensor("right"))


def _squares(parts: Parts) -> None:
    """Numbers that double their digits forty times."""
    name = "n"
    parts.nodes.append(
        {
            "target": "torch.ops.aten.sym_size.int",
            "inputs": [{"name": "self", "arg": tensor("linear")}, {"name": "dim", "arg": {"as_int": 0}}],
            "outputs": [{"as_sym_int": {"as_name": name}}],
        }
    )
    for i in range(40):
        arguments = [{"name": key, "arg": {"as_sym_int": {"as_name": name}}} for key in "ab"]
        name = f"n{i}"
        parts.nodes.append({"target": "_operator.mul", "inputs": arguments, "outputs": [{"as_sym_int": {"as_name": name}}]})
    parts.add("torch.ops.aten.relu.default", self=tensor("linear"))


def _many_large(parts: Parts) -> None:
    """Each result is allowed, their sum is not."""
    for i in range(70):
        parts.add("torch.ops.aten.zeros.default", f"zeros{i}", size={"as_ints": [2**14, 2**14 - 1]})


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        *OPERATORS.values(),
        (_squares, "cannot run on a batch of 3 .*beyond 63 bits"),
        (_many_large, "brings the numbers to compute for one image to"),
    ],
    ids=[*OPERATORS, "squares", "many large"],
)
def test_an_operator_that_could_harm_is_refused(tmp_path: Path, good: bytes, edit: Edit, message: str) -> None:
    refused(spoiled(good, edit), tmp_path, message)


def _meta(parts: Parts) -> Any:
    return parts.weights["config"]["5.weight"]["tensor_meta"]


def _set(**changes: Any) -> Edit:
    return lambda parts: _meta(parts).update(changes)


def _numbers(*values: int) -> list[dict[str, int]]:
    return [{"as_int": value} for value in values]


def _claim(parts: Parts) -> None:
    """Ninety views of the same bytes, each different."""
    entry = parts.weights["config"]["5.weight"]
    for i in range(90):
        meta = entry["tensor_meta"] | {"sizes": _numbers(9 + i % 2, 70 - i // 2)}
        parts.weights["config"][f"view{i}"] = entry | {"tensor_meta": meta}


WRONG_WEIGHTS: dict[str, tuple[Edit, str]] = {
    "huge": (
        _set(sizes=_numbers(2**40, 1)),
        r"the tensor 5\.weight of the sizes \(1099511627776, 1\) takes .* numbers, but 720 are stored",
    ),
    "overflow": (_set(sizes=_numbers(2**32, 2**32)), r"takes 1844674407370\d+ numbers, but 720 are stored"),
    "repeated": (_set(sizes=_numbers(2**20, 2**20), strides=_numbers(0, 0)), "takes 1099511627776 numbers, but 720 are stored"),
    "negative size": (_set(sizes=_numbers(-1, 72)), "has a size, stride or offset that is not a number of at least 0"),
    "negative stride": (_set(strides=_numbers(-72, 1)), "has a size, stride or offset that is not a number of at least 0"),
    "negative offset": (_set(storage_offset={"as_int": -1}), "has a size, stride or offset that is not a number of at least 0"),
    "stride outside": (_set(strides=_numbers(73, 1)), "takes 729 numbers, but 720 are stored"),
    "offset outside": (_set(storage_offset={"as_int": 1}), "takes 721 numbers, but 720 are stored"),
    "huge offset": (_set(storage_offset={"as_int": 2**62}), r"takes 4611686018427388624 numbers, but 720 are stored"),
    "huge stride": (_set(sizes=_numbers(1, 72), strides=_numbers(2**63, 1)), "impossible sizes or strides|cannot be read"),
    "huge and empty": (_set(sizes=_numbers(0, 2**63), strides=_numbers(1, 1)), "impossible sizes or strides|cannot be read"),
    "beyond 64 bits": (_set(sizes=_numbers(2**70, 1)), "cannot be read|numbers, but 720 are stored"),
    "few strides": (_set(strides=_numbers(1)), "has 2 sizes and 1 strides"),
    "many dimensions": (_set(sizes=_numbers(*[1] * 65), strides=_numbers(*[1] * 65)), "has 65 sizes and 65 strides"),
    "quantised": (
        _set(dtype=31),
        "holds the tensor 5.weight in the type 31 and layout 7 of torch's schema, but only dense real tensors are read",
    ),
    "sparse": (_set(layout=1), "holds the tensor 5.weight in the type 7 and layout 1"),
    "truth values": (
        _set(dtype=12, sizes=_numbers(2), strides=_numbers(1)),
        r"the truth values of the tensor 5\.weight are neither 0 nor 1",
    ),
    "text for a size": (_set(sizes=["1", "2"]), "cannot be read"),
    "no description": (lambda parts: parts.weights["config"]["5.weight"].update(tensor_meta=None), r"stores 5\.weight as a pickle"),
    "path": (
        lambda parts: parts.weights["config"]["5.weight"].update(path_name="../../../etc/passwd"),
        r"the tensor 5\.weight is said to be in \.\./\.\./\.\./etc/passwd",
    ),
    "no bytes": (
        lambda parts: parts.entries.pop("data/weights/weight_0"),
        r"the bytes of the tensor 0\.weight, data/weights/weight_0, are missing",
    ),
    "few bytes": (
        lambda parts: parts.entries.update({"data/weights/weight_0": b"1234567"}),
        r"the tensor 0\.weight of the sizes .* takes 18 numbers, but 1 are stored",
    ),
    "no weight": (lambda parts: parts.weights["config"].pop("5.bias"), r"the tensor '5\.bias' is missing"),
    "many views": (_claim, r"its weights take \d+ bytes, but \d+ are stored"),
    "other shape": (_set(sizes=_numbers(9, 72)), "cannot run on a batch of 3|returns the shape"),
    "bad name": (lambda parts: _rename(parts, "forward"), "holds a tensor of the name 'forward', which no module can have"),
    "own name": (lambda parts: _rename(parts, "_program"), "holds a tensor of the name '_program', which no module can have"),
    "empty name": (lambda parts: _rename(parts, "a..b"), r"holds a tensor of the name 'a\.\.b', which no module can have"),
    "deep name": (lambda parts: _rename(parts, ".".join(["a"] * 3000)), r"the tensor name 'a\.a\..*\.\.\.' is nested 2999 times"),
}


def _rename(parts: Parts, name: str) -> None:
    parts.weights["config"][name] = parts.weights["config"].pop("5.bias")
    for spec in parts.signature["input_specs"]:
        if spec.get("parameter", {}).get("parameter_name") == "5.bias":
            spec["parameter"]["parameter_name"] = name


@pytest.mark.parametrize(("edit", "message"), WRONG_WEIGHTS.values(), ids=WRONG_WEIGHTS)
def test_wrong_weights_are_refused(tmp_path: Path, good: bytes, edit: Edit, message: str) -> None:
    refused(spoiled(good, edit), tmp_path, message)


def _raw(name: str, content: bytes) -> Callable[[bytes], bytes]:
    """The program with one entry replaced."""

    def edit(data: bytes) -> bytes:
        parts = Parts(data)
        entries = {f"a/{key}": value for key, value in parts.entries.items()}
        return zipped(entries | {f"a/{name}": content})

    return edit


def _outputs(parts: Parts, specs: list[Any]) -> None:
    parts.signature["output_specs"] = specs


def _version(major: int) -> Edit:
    return lambda parts: parts.graph["schema_version"].update(major=major)


DAMAGED: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "version 7": (lambda d: spoiled(d, _version(7)), r"is written in version 7\.\d+ of PyTorch's schema, but version 8 is read"),
    "version 9": (lambda d: spoiled(d, _version(9)), r"is written in version 9\.\d+ of PyTorch's schema, but version 8 is read"),
    "no version": (lambda d: spoiled(d, lambda p: p.graph.pop("schema_version")), "missing required field `schema_version`"),
    "empty graph": (lambda d: spoiled(d, lambda p: p.nodes.clear()), "it has 0 operators, and 1 to 20000 are read"),
    "many nodes": (
        lambda d: spoiled(d, lambda p: p.nodes.extend([{"target": "", "inputs": [], "outputs": []}] * 20_000)),
        "it has 2000. operators",
    ),
    "no output": (lambda d: spoiled(d, lambda p: _outputs(p, [])), "is a program of 0 results, but a classifier has one"),
    "two outputs": (
        lambda d: spoiled(d, lambda p: _outputs(p, p.signature["output_specs"] * 2)),
        "is a program of 2 results, but a classifier has one",
    ),
    "output is a number": (
        lambda d: spoiled(d, lambda p: _outputs(p, [{"user_output": {"arg": {"as_int": 1}}}])),
        "is a program of 1 results",
    ),
    "output is a weight": (
        lambda d: spoiled(d, lambda p: _outputs(p, [{"user_output": {"arg": tensor("p_5_weight")}}])),
        "its output 'p_5_weight' is the result of no operator",
    ),
    "no input": (lambda d: spoiled(d, lambda p: p.signature["input_specs"].pop()), "is a program of 0 inputs, but a classifier has one"),
    "object as input": (lambda d: spoiled(d, lambda p: p.signature["input_specs"].append({"custom_obj": {}})), "is a program of 2 inputs"),
    "input named twice": (
        lambda d: spoiled(d, lambda p: p.signature["input_specs"].append(p.signature["input_specs"][0])),
        "the input 'p_0_weight' is named twice",
    ),
    "no shape of the input": (lambda d: spoiled(d, lambda p: p.values.pop("input")), "the shape of its input is missing"),
    "no JSON": (_raw(GRAPH, b"not JSON"), r"models/model\.json cannot be read \(JSON is malformed"),
    "no text": (_raw(GRAPH, b'{"schema_version": "\xff\xfe"}'), r"models/model\.json cannot be read"),
    "other JSON": (_raw(GRAPH, b"[]"), r"models/model\.json cannot be read \(Expected `object`, got `array`\)"),
    "empty JSON": (_raw(GRAPH, b""), r"models/model\.json cannot be read \(Input data was truncated\)"),
    "deep JSON": (_raw(GRAPH, b'{"x": ' + b"[" * 500_000 + b"]" * 500_000 + b"}"), "it is nested too deeply"),
    "deep known JSON": (_raw(WEIGHTS, b'{"config": {"a": ' + b'{"tensor_meta": ' * 300_000 + b"}" * 300_002), "cannot be read"),
    "weights are no JSON": (_raw(WEIGHTS, b"{"), r"data/weights/model_weights_config\.json cannot be read"),
    "constants are no JSON": (_raw(CONSTANTS, b"{"), r"data/constants/model_constants_config\.json cannot be read"),
    "big endian": (_raw("byteorder", b"big"), "was written in another byte order"),
    "compiled": (
        lambda d: spoiled(d, lambda p: p.entries.update({"data/aotinductor/model/x.so": p.entries.pop(GRAPH)})),
        "so it holds compiled code or models of other names",
    ),
    "before 2.8": (
        lambda _: zipped({"serialized_exported_program.json": b"{}", "serialized_state_dict.pt": b"boom", "version": b"8.5"}),
        r"of PyTorch before 2\.8, with pickled weights, which are not opened: where you trust it, write it again by torch",
    ),
    "no graph": (lambda d: spoiled(d, lambda p: p.entries.pop(GRAPH)), r"is an exported program without models/model\.json"),
}


@pytest.mark.parametrize(("edit", "message"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_program_is_refused(tmp_path: Path, good: bytes, edit: Callable[[bytes], bytes], message: str) -> None:
    refused(edit(good), tmp_path, message)


def test_a_large_graph_is_not_read(tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precisionkit.models.pt2.read._LARGEST_GRAPH", 1000)
    refused(good, tmp_path, "holds a graph of more than 1000 bytes and is not opened")


def test_truncated_json(tmp_path: Path, good: bytes) -> None:
    graph = Parts(good).entries[GRAPH]
    for part in range(0, len(graph) - 1, len(graph) // 25):
        refused(_raw(GRAPH, graph[:part])(good), tmp_path, r"models/model\.json cannot be read \(Input data was truncated\)")


def test_truncated_archive(tmp_path: Path, good: bytes) -> None:
    for size in [*range(2, len(good), len(good) // 40), *range(len(good) - 40, len(good))]:
        refused(good[:size], tmp_path, "is damaged or cut off")


def test_changed_bytes_end_in_one_sentence_or_load(tmp_path: Path, good: bytes) -> None:
    """Whatever a changed byte does, it does not reach the user as anything but one sentence."""
    path = tmp_path / "net.pt2"
    sentences = []
    places = range(0, len(good), len(good) // 150)
    for place in places:
        data = bytearray(good)
        data[place] ^= 0x11
        path.write_bytes(data)
        try:
            load_model(path)
        except UnusableModelError as error:
            sentences.append(str(error))
    assert 0 < len(sentences) < len(places)
    assert not [sentence for sentence in sentences if "\n" in sentence]


@pytest.mark.parametrize("edit", [_sample_inputs, _size_of_the_input])
def test_weights_for_an_architecture_are_read_alone(tmp_path: Path, good: bytes, edit: Callable[[Parts, Path], None]) -> None:
    marker = tmp_path / "marker"
    refused(spoiled(good, lambda parts: edit(parts, marker)), tmp_path, "does not fit the architecture lenet5", arch="lenet5")
    assert not marker.exists()


def test_trust_changes_nothing(tmp_path: Path, good: bytes) -> None:
    marker = tmp_path / "marker"
    refused(spoiled(good, lambda parts: _pickled_weight(parts, marker)), tmp_path, "as a pickle", trust=True)
    assert not marker.exists()


def _entry(name: str, content: bytes = b"x", **attributes: Any) -> Callable[[bytes], bytes]:
    """The archive with one more entry."""

    def edit(data: bytes) -> bytes:
        stream = io.BytesIO(data)
        with zipfile.ZipFile(stream, "a") as archive, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # zipfile warns of two entries of the same name
            info = zipfile.ZipInfo(name)
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.writestr(info, content)
        return stream.getvalue()

    return edit


def _first(data: bytes) -> str:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return archive.namelist()[0]


def _encrypted(data: bytes) -> bytes:
    changed = bytearray(_entry("archive/secret")(data))
    changed[changed.rindex(b"PK\x01\x02") + 8] |= 1
    return bytes(changed)


def _overlapping(data: bytes) -> bytes:
    """All entries of the directory point to the same bytes."""
    changed = bytearray(data)
    place = changed.find(b"PK\x01\x02")
    largest = len(data) // 2
    while place >= 0:
        changed[place + 20 : place + 28] = largest.to_bytes(4, "little") * 2
        place = changed.find(b"PK\x01\x02", place + 4)
    return bytes(changed)


ARCHIVES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "absolute": (_entry("/etc/x"), "holds the entry '/etc/x', whose name leads out of the archive, as torch never writes"),
    "parent": (_entry("archive/../../x"), r"holds the entry 'archive/\.\./\.\./x', whose name leads out of the archive"),
    "parent of another system": (_entry(r"archive\..\x"), "whose name leads out of the archive"),
    "drive": (_entry("C:/x"), "whose name leads out of the archive"),
    "link": (_entry("archive/link", external_attr=0o120777 << 16), "holds the entry 'archive/link', which is a link"),
    "encrypted": (_encrypted, "holds the entry 'archive/secret', which is encrypted"),
    "twice": (lambda d: _entry(_first(d))(d), "holds two entries of the same name"),
    "twice in two folders": (lambda d: _entry(f"other/{_first(d).partition('/')[2]}")(d), "holds two entries of the same name"),
    "compressed": (
        _entry("archive/bomb", bytes(10**7), compress_type=zipfile.ZIP_DEFLATED),
        "holds the entry 'archive/bomb', which is compressed",
    ),
    "overlapping": (_overlapping, r"claims \d+ bytes in its entries, but is \d+ bytes long|is damaged or cut off"),
}


@pytest.mark.parametrize("written", ["program", "state dict"])
@pytest.mark.parametrize(("edit", "message"), ARCHIVES.values(), ids=ARCHIVES)
def test_archives_that_torch_does_not_write_are_refused(
    tmp_path: Path, good: bytes, written: str, edit: Callable[[bytes], bytes], message: str
) -> None:
    data = good if written == "program" else _saved(small_net().state_dict())
    refused(edit(data), tmp_path, message)


def test_an_archive_of_very_many_entries_is_refused(tmp_path: Path, good: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("precisionkit.models.archive._MOST_ENTRIES", 5)
    refused(good, tmp_path, r"holds \d+ entries, more than 5, as torch never writes")
