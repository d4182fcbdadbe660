"""The file of a certificate: a zip archive of one statement in JSON and arrays in numpy's format, read without trusting any of it.

``statement.json`` names the model and the data, the arithmetic, the network node by node, and the SHA-256 of every array;
``seal.txt`` holds that of the statement.  The arrays are the inputs, their places in the data set, what is claimed of them, and the
constants of the network in binary32.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from precisionkit.checker.operators import OPERATORS, Rule
from precisionkit.checker.proof import METHODS, Network, Node
from precisionkit.checker.rounding import BINARY32, FORMATS

FORMAT = "precisionkit.certificate/1"
_STATEMENT, _SEAL = "statement.json", "seal.txt"
_CLAIMS = {"inputs": "float32", "index": "int64", "class": "int64", "method": "uint8", "least_gap": "float64"}
_CONSTANT = "constant/"
_AGAIN = "copy it again, or give a file that 'precisionkit certify --certificate FILE' wrote"
_MAGIC = b"\x93NUMPY\x01\x00"
_HEADER = rb"\{'descr': '([<|]\w\d)', 'fortran_order': False, 'shape': \(((?:\d{1,10}, ?)*(?:\d{1,10})?)\), \} *\n"
_MOST_BYTES = 2**32
_MOST_STATEMENT = 2**24
_DATE = (1980, 1, 1, 0, 0, 0)


class CertificateError(Exception):
    """A certificate that proves nothing.

    Parameters
    ----------
    step : str
        What was being checked.
    why : str
        A sentence.
    """

    def __init__(self, step: str, why: str) -> None:
        super().__init__(f"Refused at the step '{step}': {why}")
        self.step = step


@dataclass(frozen=True)
class Source:
    """Something that the certificate speaks of: its name, and the hash that precisionkit's reports give it."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Certificate:
    """A claim: for every input, every run of both programs predicts the class.

    Attributes
    ----------
    model, data : Source
    split : str
    total : int
        Number of inputs that were certified; the certificate speaks of those that it holds.
    rule : Rule
        Of the half program.
    network : Network
        With binary32 constants.
    inputs : (n, ...) binary32 array
    index, classes : (n,) int arrays
        Places in the data set, ascending; the class.
    methods : (n, 2) array
        Place in `METHODS` for the reference program and the half program.
    least : (n, 2) array
        The least gap to any other class, in every run of each program.
    """

    model: Source
    data: Source
    split: str
    total: int
    rule: Rule
    network: Network
    inputs: NDArray[np.float32]
    index: NDArray[np.int64]
    classes: NDArray[np.int64]
    methods: NDArray[np.uint8]
    least: NDArray[np.float64]


# ------------------------------------------------------------------------------------------------------------------- writing
def write(certificate: Certificate, path: Path) -> None:
    """Write a file."""
    path.write_bytes(encode(certificate))


def encode(certificate: Certificate) -> bytes:
    """The content of a file; equal certificates give equal bytes."""
    arrays = _arrays(certificate)
    statement = _statement(certificate, arrays)
    seal = hashlib.sha256(statement).hexdigest().encode()
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in ((_STATEMENT, statement), (_SEAL, seal), *((f"{name}.npy", array) for name, array in arrays.items())):
            archive.writestr(zipfile.ZipInfo(name, _DATE), content, zipfile.ZIP_DEFLATED, 6)
    return data.getvalue()


def _arrays(certificate: Certificate) -> dict[str, bytes]:
    claims = (certificate.inputs, certificate.index, certificate.classes, certificate.methods, certificate.least)
    constants = {_CONSTANT + name: np.asarray(value, dtype=np.float32) for name, value in sorted(certificate.network.constants.items())}
    arrays: dict[str, NDArray[Any]] = {name: np.asarray(claim) for name, claim in zip(_CLAIMS, claims, strict=True)} | constants
    return {name: _encoded(array) for name, array in arrays.items()}


def _encoded(array: NDArray[Any]) -> bytes:
    """In numpy's format, version 1.0: little-endian, in C's order."""
    kind = array.dtype.newbyteorder("<").str
    header = f"{{'descr': '{kind}', 'fortran_order': False, 'shape': {array.shape}, }}"
    header += " " * (-(len(_MAGIC) + 3 + len(header)) % 64) + "\n"
    return _MAGIC + len(header).to_bytes(2, "little") + header.encode() + np.ascontiguousarray(array, dtype=kind).tobytes()


def _statement(certificate: Certificate, arrays: Mapping[str, bytes]) -> bytes:
    network = certificate.network
    value = {
        "format": FORMAT,
        "model": {"name": certificate.model.name, "sha256": certificate.model.sha256},
        "data": {
            "name": certificate.data.name,
            "split": certificate.split,
            "sha256": certificate.data.sha256,
            "inputs": certificate.total,
        },
        "arithmetic": {"storage": certificate.rule.storage.name, "accumulate": certificate.rule.accumulate.name, "order": "any"},
        "network": {
            "input": network.input,
            "nodes": [
                {"name": n.name, "operator": n.operator, "operands": list(n.operands), "attributes": dict(n.attributes)}
                for n in network.nodes
            ],
        },
        "arrays": {name: hashlib.sha256(data).hexdigest() for name, data in sorted(arrays.items())},
    }
    return json.dumps(value, indent=1, sort_keys=True).encode()


# ------------------------------------------------------------------------------------------------------------------- reading
def read(path: Path) -> Certificate:
    """Read a file and check its form; what it claims is checked by `precisionkit.checker.check`.

    Raises
    ------
    CertificateError
        It is no certificate, damaged, edited, or says something that the checker does not understand.
    OSError
        There is no such file.
    """
    return parse(path.read_bytes())


def parse(data: bytes) -> Certificate:
    """As `read`, of a file's content."""
    content = _members(data)
    statement, seal = content.pop(_STATEMENT), content.pop(_SEAL)
    if seal != hashlib.sha256(statement).hexdigest().encode():
        raise CertificateError("seal", "the statement is not the one that was sealed; the file was edited or damaged.")
    fields = _Fields(_parsed(statement), "the statement", "format model data arithmetic network arrays")
    if fields.text("format") != FORMAT:
        raise CertificateError("statement", f"the format is not {FORMAT}; use the version of precisionkit that wrote the file.")
    arrays = _checked_arrays(content, _Fields(fields["arrays"], "'arrays'", None))
    constants = {name.removeprefix(_CONSTANT): value for name, value in arrays.items() if name.startswith(_CONSTANT)}
    network = _network(_Fields(fields["network"], "'network'", "input nodes"), constants)
    model = _Fields(fields["model"], "'model'", "name sha256")
    source = _Fields(fields["data"], "'data'", "name split sha256 inputs")
    certificate = Certificate(
        model.source(),
        source.source(),
        source.text("split"),
        source.count("inputs"),
        _rule(_Fields(fields["arithmetic"], "'arithmetic'", "storage accumulate order")),
        network,
        *(arrays[name] for name in _CLAIMS),
    )
    _check_claims(certificate)
    return certificate


def _members(data: bytes) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            _check_contents(archive)
            return {info.filename: _content(archive, info) for info in archive.infolist()}
    except CertificateError:
        raise
    except Exception as error:  # zipfile lets errors of many kinds through, those of zlib among them
        raise CertificateError("container", f"the file is no whole certificate ({ascii(str(error))[1:-1][:80]}); {_AGAIN}.") from error


def _check_contents(archive: zipfile.ZipFile) -> None:
    infos = archive.infolist()
    names = [info.filename for info in infos]
    if len(set(names)) < len(names):
        raise CertificateError("container", "two members of the archive have the same name.")
    if missing := {_STATEMENT, _SEAL} - set(names):
        raise CertificateError("container", f"the archive has no {sorted(missing)[0]}, so it is no certificate; {_AGAIN}.")
    if any(info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for info in infos):
        raise CertificateError("container", "a member of the archive is packed otherwise than by deflate.")
    size = sum(info.file_size for info in infos)
    if size > _MOST_BYTES or archive.getinfo(_STATEMENT).file_size > _MOST_STATEMENT:
        raise CertificateError("container", f"the archive holds {size} bytes, more than the checker reads ({_MOST_BYTES}).")


def _content(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A member, of which no more is unpacked than the archive says it has."""
    with archive.open(info) as member:
        content = member.read(info.file_size + 1)
    if len(content) != info.file_size:
        raise CertificateError("container", "a member of the archive has another size than the archive says.")
    return content


def _parsed(text: bytes) -> Any:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({name for name, _ in pairs}) < len(pairs):
            raise ValueError("a name occurs twice")
        return dict(pairs)

    def no_constant(text: str) -> NoReturn:
        raise ValueError(f"{text} is no number")

    try:
        return json.loads(text.decode("utf-8"), object_pairs_hook=unique, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise CertificateError("statement", f"statement.json cannot be read ({error}).") from error


def _is_name(text: str) -> bool:
    return re.fullmatch(r"[A-Za-z0-9_.:/-]{1,200}", text) is not None


class _Fields:
    """An object of the statement, with exactly the names that it has to have."""

    def __init__(self, value: Any, where: str, names: str | None) -> None:
        if not isinstance(value, dict):
            raise CertificateError("statement", f"{where} is no object.")
        if names is not None and set(value) != set(names.split()):
            odd = sorted(set(value) ^ set(names.split()))
            raise CertificateError("statement", f"{where} has to have the names {names}; {ascii(odd[0])[:80]} is missing or unknown.")
        self._value, self._where = value, where

    def __getitem__(self, name: str) -> Any:
        return self._value[name]

    def items(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return list(self._value.items())

    def text(self, name: str) -> str:
        """A string."""
        value = self._value[name]
        if not isinstance(value, str):
            raise CertificateError("statement", f"'{name}' in {self._where} is no text.")
        return value

    def name(self, name: str) -> str:
        """A string of letters, digits and ``_ . : / -``."""
        value = self.text(name)
        if not _is_name(value):
            raise CertificateError("statement", f"'{name}' in {self._where} is no name: {ascii(value)[:80]}.")
        return value

    def count(self, name: str) -> int:
        """A whole number of 0 or more."""
        value = self._value[name]
        if type(value) is not int or value < 0:
            raise CertificateError("statement", f"'{name}' in {self._where} is no count.")
        return value

    def source(self) -> Source:
        """A name and a hash."""
        sha = self.text("sha256")
        if len(sha) != 64 or not set(sha) <= set("0123456789abcdef"):
            raise CertificateError("statement", f"'sha256' in {self._where} is no SHA-256.")
        return Source(self.text("name"), sha)


def _checked_arrays(content: dict[str, bytes], listed: _Fields) -> dict[str, NDArray[Any]]:
    """Exactly the arrays that the statement lists, with the contents that it lists."""
    digests = dict(listed.items())
    names = {name.removesuffix(".npy") for name in content}
    for name in sorted(names ^ set(digests) | {name for name in content if not name.endswith(".npy")}):
        where = "the archive but not in the statement" if name in names else "the statement but not in the archive"
        raise CertificateError("arrays", f"{ascii(name)[:80]} is in {where}.")
    for name in digests:
        if name not in _CLAIMS and not (name.startswith(_CONSTANT) and _is_name(name)):
            raise CertificateError("arrays", f"{ascii(name)[:80]} is nothing that a certificate has.")
        if hashlib.sha256(content[f"{name}.npy"]).hexdigest() != digests[name]:
            raise CertificateError("arrays", f"the content of '{name}' is not what the statement lists; it was edited or damaged.")
    if missing := [name for name in _CLAIMS if name not in digests]:
        raise CertificateError("arrays", f"there is no array '{missing[0]}'.")
    return {name: _decoded(name, content[f"{name}.npy"]) for name in digests}


def _decoded(name: str, data: bytes) -> NDArray[Any]:
    """What `_encoded` writes, and nothing else; numpy's own reader of headers evaluates them."""
    wanted = np.dtype(_CLAIMS.get(name, "float32")).newbyteorder("<")
    start = len(_MAGIC) + 2
    length = int.from_bytes(data[len(_MAGIC) : start], "little")
    header = re.fullmatch(_HEADER, data[start : start + length])
    if not data.startswith(_MAGIC) or header is None:
        raise CertificateError("arrays", f"{name!a} is no array of numbers in numpy's format, version 1.0.")
    if header[1].decode() != wanted.str:
        raise CertificateError("arrays", f"{name!a} holds {header[1].decode()}, not {wanted.str}.")
    shape = tuple(int(part) for part in header[2].split(b",") if part.strip())
    if len(data) != start + length + wanted.itemsize * math.prod(shape):
        raise CertificateError("arrays", f"{name!a} does not have as many bytes as its shape {shape} needs.")
    array = np.frombuffer(data, dtype=wanted, offset=start + length).reshape(shape)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise CertificateError("arrays", f"{name!a} holds an infinity or a NaN.")
    return array


def _rule(fields: _Fields) -> Rule:
    names = {name: fields.text(name) for name in ("storage", "accumulate")}
    for name in names.values():
        if name not in FORMATS:
            raise CertificateError("arithmetic", f"the format {ascii(name)[:80]} is not known; the checker knows {', '.join(FORMATS)}.")
    rule = Rule(FORMATS[names["storage"]], FORMATS[names["accumulate"]])
    if fields.text("order") != "any":
        raise CertificateError("arithmetic", "the order is not known; the checker knows sums in any order.")
    if rule.accumulate not in (rule.storage, BINARY32):
        raise CertificateError("arithmetic", f"sums in {rule.accumulate.name} of numbers in {rule.storage.name} are not known.")
    return rule


def _network(fields: _Fields, constants: Mapping[str, NDArray[Any]]) -> Network:
    given = fields.name("input")
    if not isinstance(fields["nodes"], list) or not fields["nodes"]:
        raise CertificateError("network", "it has no nodes.")
    seen, used = {given}, set[str]()
    if given in constants:
        raise CertificateError("network", f"'{given}' is the input and a constant.")
    nodes = []
    for value in fields["nodes"]:
        node = _node(_Fields(value, "a node", "name operator operands attributes"))
        operator = OPERATORS[node.operator]
        places = [name in (seen if place < operator.activations else constants) for place, name in enumerate(node.operands)]
        optional = operator.optional_bias and node.operands[-1] is None
        if not all(places[:-1]) or not (places[-1] or optional):
            raise CertificateError(
                "network", f"node '{node.name}' reads something that is neither before it nor a constant where one belongs."
            )
        if node.name in seen or node.name in constants:
            raise CertificateError("network", f"the name '{node.name}' occurs twice.")
        seen.add(node.name)
        used |= {name for name in node.operands if name is not None}
        nodes.append(node)
    for name in sorted((seen | set(constants)) - used - {nodes[-1].name}):
        raise CertificateError("network", f"nothing uses '{name}'.")
    if nodes[-1].name in used:
        raise CertificateError("network", f"'{nodes[-1].name}', the last node, is not the end.")
    return Network(given, tuple(nodes), constants)


def _node(fields: _Fields) -> Node:
    name, operator = fields.name("name"), fields.text("operator")
    if operator not in OPERATORS:
        raise CertificateError("network", f"node '{name}' has an operator that the checker does not know; it knows {', '.join(OPERATORS)}.")
    known = OPERATORS[operator]
    operands, attributes = fields["operands"], _Fields(fields["attributes"], f"'attributes' of node '{name}'", None)
    if not isinstance(operands, list) or len(operands) != known.activations + known.constants:
        raise CertificateError("network", f"node '{name}' has to have {known.activations + known.constants} operands.")
    if not all(operand is None or isinstance(operand, str) for operand in operands):
        raise CertificateError("network", f"node '{name}' has an operand that is no name.")
    values = dict(attributes.items())
    for odd in sorted(set(values) ^ set(known.attributes)):
        raise CertificateError("network", f"the attribute {ascii(odd)[:80]} of node '{name}' is missing or unknown.")
    for attribute, accepts in known.attributes.items():
        if not accepts(values[attribute]):
            raise CertificateError("network", f"'{attribute}' of node '{name}' is {ascii(values[attribute])[:80]}, which is not allowed.")
    return Node(name, operator, tuple(operands), values)


def _check_claims(certificate: Certificate) -> None:
    """Shapes, order and ranges of what is claimed."""
    n = len(certificate.index) if certificate.index.ndim else -1
    shapes: dict[str, tuple[NDArray[Any], tuple[int, ...]]] = {
        "index": (certificate.index, (n,)),
        "class": (certificate.classes, (n,)),
        "method": (certificate.methods, (n, 2)),
        "least_gap": (certificate.least, (n, 2)),
    }
    for name, (array, shape) in shapes.items():
        if array.shape != shape:
            raise CertificateError("claims", f"'{name}' has the shape {array.shape}, not {shape}.")
    if certificate.inputs.ndim < 2 or len(certificate.inputs) != n or not n or not math.prod(certificate.inputs.shape[1:]):
        raise CertificateError("claims", f"the inputs have the shape {certificate.inputs.shape}; {n} of them are named.")
    if certificate.index[0] < 0 or (np.diff(certificate.index) <= 0).any() or certificate.index[-1] >= certificate.total:
        raise CertificateError("claims", f"the places of the inputs do not ascend from 0 to {certificate.total - 1} at most.")
    if (certificate.methods >= len(METHODS)).any():
        raise CertificateError("claims", f"a method is none of 0 to {len(METHODS) - 1}.")
    if not (certificate.least > 0).all():
        raise CertificateError("claims", "a gap is claimed that is not positive; it decides nothing.")
    try:
        (outputs,) = certificate.network.shapes(certificate.inputs.shape[1:])[certificate.network.nodes[-1].name]
    except ValueError as error:
        raise CertificateError("network", f"{error}.") from error
    if not ((certificate.classes >= 0) & (certificate.classes < outputs)).all():
        raise CertificateError("claims", f"a class is none of 0 to {outputs - 1}.")
