"""Ways to forge or damage a certificate, and the step at which the checker has to notice each.

An edit takes the members of the archive, name by name, and returns them changed.  Where the forger is `careful`, all hashes are made to
fit again, so that only what the certificate says can give it away.
"""

import hashlib
import io
import json
import zipfile
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Tampering:
    """A kind of it: what is changed, in words; the step that refuses it; the edit."""

    what: str
    step: str
    edit: object
    careful: bool = True


def unpacked(path):
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(members, path):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def tampered(kind, source, target):
    """Write the certificate `source`, changed, as `target`."""
    if kind.what in RAW:
        target.write_bytes(RAW[kind.what](source.read_bytes()))
        return
    members = kind.edit(unpacked(source))
    packed(resealed(members) if kind.careful else members, target)


def resealed(members):
    """Make all hashes fit."""
    statement = members["statement.json"]
    try:
        value = json.loads(statement)
        value["arrays"] = {name: sha256(members[f"{name}.npy"]) for name in value["arrays"] if f"{name}.npy" in members}
        # keep what an edit wrote by hand: the hashes are replaced in the text
        statement = (
            json.dumps(value, indent=1, sort_keys=True).encode() if json.dumps(value) != json.dumps(json.loads(statement)) else statement
        )
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        pass
    return {**members, "statement.json": statement, "seal.txt": sha256(statement).encode()}


def sha256(data):
    return hashlib.sha256(data).hexdigest()


# ---------------------------------------------------------------------------------------------------------------- kinds of edits
def text(old, new, count=1):
    """Replace text of the statement."""

    def edit(members):
        before = members["statement.json"].decode()
        assert old in before, old
        return {**members, "statement.json": before.replace(old, new, count).encode()}

    return edit


def said(change):
    """Change the statement's value."""

    def edit(members):
        value = json.loads(members["statement.json"])
        change(value)
        return {**members, "statement.json": json.dumps(value, indent=1, sort_keys=True).encode()}

    return edit


def node(place, **changes):
    """Change fields of a node; an operand or attribute by a function."""

    def change(value):
        found = value["network"]["nodes"][place]
        for name, new in changes.items():
            found[name] = new(found[name]) if callable(new) else new

    return said(change)


def attribute(operator, **changes):
    """Change attributes of the first node with an operator; None deletes one."""

    def change(value):
        found = next(n for n in value["network"]["nodes"] if n["operator"] == operator)["attributes"]
        for name, new in changes.items():
            if new is None:
                del found[name]
            else:
                found[name] = new

    return said(change)


def array(name, change):
    """Change an array in place, or return another."""

    def edit(members):
        key = next(key for key in sorted(members) if key.startswith(name) and key.endswith(".npy"))
        values = np.load(io.BytesIO(members[key]))
        other = change(values)
        return {**members, key: encoded(values if other is None else other)}

    return edit


def encoded(values, allow_pickle=False):
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, np.asarray(values), allow_pickle=allow_pickle)
    return buffer.getvalue()


def entry(place, value):
    """Set one entry of an array."""

    def change(values):
        values[place] = value(values[place]) if callable(value) else value

    return change


def without(name):
    return lambda members: {key: content for key, content in members.items() if key != name}


def renamed(members):
    key = next(key for key in members if key.startswith("constant/"))
    return {f"{key[:-4]}x.npy" if name == key else name: content for name, content in members.items()}


def swapped(first, second):
    """Two constants of the same shape change places."""

    def edit(members):
        a, b = (f"constant/{name}.npy" for name in (first, second))
        assert np.load(io.BytesIO(members[a])).shape == np.load(io.BytesIO(members[b])).shape
        return {**members, a: members[b], b: members[a]}

    return edit


def without_node(operator):
    """Leave a node out; what it gave, its operand gives."""

    def change(value):
        nodes = value["network"]["nodes"]
        gone = next(n for n in nodes if n["operator"] == operator)
        nodes.remove(gone)
        for left in nodes:
            left["operands"] = [gone["operands"][0] if name == gone["name"] else name for name in left["operands"]]

    return said(change)


def everywhere(rows):
    """Change rows of every array that has one for each input."""

    def edit(members):
        for name in ("inputs", "index", "class", "method", "least_gap"):
            members = array(f"{name}.npy", lambda values: values[rows])(members)
        return members

    return edit


def trailing(members):
    return {**members, "class.npy": members["class.npy"] + b"\0"}


def broken_header(members):
    return {**members, "class.npy": b"\x93NUMPY\x09\x09" + members["class.npy"][8:]}


def objects(members):
    return {**members, "class.npy": encoded(np.array([{}], dtype=object), allow_pickle=True)}


def _flip(data):
    changed = bytearray(data)
    changed[len(data) // 2] ^= 0xFF
    return bytes(changed)


def _doubled(data):
    source = io.BytesIO(data)
    with zipfile.ZipFile(source, "a") as archive:
        archive.fp.seek(0, 2)
        info = zipfile.ZipInfo("seal.txt")
        archive.NameToInfo.pop("seal.txt")
        archive.writestr(info, b"0")
    return source.getvalue()


RAW = {
    "an empty file": lambda data: b"",
    "a text": lambda data: b"proved, all of them\n",
    "the first half of the file": lambda data: data[: len(data) // 2],
    "the last byte is missing": lambda data: data[:-1],
    "a byte in the middle is flipped": _flip,
    "a member occurs twice": _doubled,
}
KINDS = (
    *(Tampering(what, "container", None) for what in RAW),
    Tampering("the statement is missing", "container", without("statement.json"), careful=False),
    Tampering("the seal is missing", "container", without("seal.txt"), careful=False),
    # ------------------------------------------------------------------------------------------------ careless
    Tampering("a blank in the statement", "seal", text("{", "{ "), careful=False),
    Tampering("another model", "seal", text('"name": "net.pt"', '"name": "nut.pt"'), careful=False),
    Tampering("another number of inputs", "seal", said(lambda v: v["data"].update(inputs=99)), careful=False),
    Tampering("another format", "seal", text("bfloat16", "binary16"), careful=False),
    Tampering("a node less", "seal", said(lambda v: v["network"]["nodes"].pop()), careful=False),
    Tampering("a weight", "arrays", array("constant/p_last_weight", entry((0, 0), 0.25)), careful=False),
    Tampering("a bias", "arrays", array("constant/p_last_bias", entry(0, 0.25)), careful=False),
    Tampering("a pixel", "arrays", array("inputs", entry((0, 0, 0, 0), 9.0)), careful=False),
    Tampering("a class", "arrays", array("class", entry(0, lambda c: (c + 1) % 4)), careful=False),
    Tampering("a gap", "arrays", array("least_gap", entry((0, 0), 100.0)), careful=False),
    Tampering("a method", "arrays", array("method", entry((0, 0), lambda m: 2 - m)), careful=False),
    Tampering("a place", "arrays", array("index", entry(-1, lambda i: i + 1)), careful=False),
    Tampering("the inputs are missing", "arrays", without("inputs.npy"), careful=False),
    Tampering("one array more", "arrays", lambda m: {**m, "more.npy": encoded(np.zeros(3))}, careful=False),
    Tampering("a file that is no array", "arrays", lambda m: {**m, "readme.txt": b"trust me"}, careful=False),
    Tampering("a constant has another name", "arrays", renamed, careful=False),
    # ------------------------------------------------------------------------------------------------ statements
    Tampering("no JSON", "statement", text("{", "[")),
    Tampering("not UTF-8", "statement", lambda m: {**m, "statement.json": b"\xff" + m["statement.json"]}),
    Tampering("nested without end", "statement", lambda m: {**m, "statement.json": b"[" * 200_000}),
    Tampering("a list for a statement", "statement", lambda m: {**m, "statement.json": b"[]"}),
    Tampering("NaN for a number", "statement", text('"inputs": 40', '"inputs": NaN')),
    Tampering("a name twice", "statement", text('"order": "any"', '"order": "any", "order": "any"')),
    Tampering("a field more", "statement", said(lambda v: v.update(verdict="proved"))),
    Tampering("a field less", "statement", said(lambda v: v["arithmetic"].pop("order"))),
    Tampering("a later version", "statement", text("certificate/1", "certificate/2")),
    Tampering("a hash that is none", "statement", said(lambda v: v["model"].update(sha256="ff"))),
    Tampering("half an input", "statement", said(lambda v: v["data"].update(inputs=40.5))),
    Tampering("fewer inputs than none", "statement", said(lambda v: v["data"].update(inputs=-1))),
    Tampering("true for a count", "statement", said(lambda v: v["data"].update(inputs=True))),
    Tampering("a number for a name", "statement", said(lambda v: v["model"].update(name=7))),
    Tampering("a name that clears the screen", "statement", node(0, name="\x1b[2J")),
    # ------------------------------------------------------------------------------------------------ arithmetics
    Tampering("an unknown format", "arithmetic", text("bfloat16", "fp7")),
    Tampering("an unknown order", "arithmetic", text('"order": "any"', '"order": "best"')),
    Tampering("sums in a narrower format", "arithmetic", text('"accumulate": "binary32"', '"accumulate": "binary16"')),
    # ------------------------------------------------------------------------------------------------ networks
    Tampering("no nodes", "network", said(lambda v: v["network"].update(nodes=[]))),
    Tampering("an unknown operator", "network", node(0, operator="oracle")),
    Tampering("an operator that clears the screen", "network", node(0, operator="\x1b[2J")),
    Tampering("a node that reads itself", "network", node(0, operands=lambda o: ["conv2d", *o[1:]])),
    Tampering("a node that reads a later one", "network", node(2, operands=["linear"])),
    Tampering("a node that reads nothing", "network", node(2, operands=[None])),
    Tampering("a node that reads a number", "network", node(2, operands=[3])),
    Tampering("an operand too few", "network", node(0, operands=lambda o: o[:2])),
    Tampering("an activation for a weight", "network", node(-1, operands=lambda o: [o[0], "relu", o[2]])),
    Tampering("a weight for an activation", "network", node(2, operands=["p_first_weight"])),
    Tampering("a batch normalisation without a variance", "network", node(1, operands=lambda o: [*o[:4], None])),
    Tampering("two nodes of one name", "network", node(1, name="conv2d")),
    Tampering("a node with the name of the input", "network", node(1, name="x")),
    Tampering("an attribute more", "network", attribute("conv2d", scale=2)),
    Tampering("an attribute less", "network", attribute("conv2d", groups=None)),
    Tampering("a stride of zero", "network", attribute("conv2d", stride=[0, 1])),
    Tampering("a negative padding", "network", attribute("conv2d", padding=[-1, 1])),
    Tampering("half a group", "network", attribute("conv2d", groups=0.5)),
    Tampering("an eps of NaN's kind", "network", attribute("batch_norm", eps="nan")),
    Tampering("an eps below the normal range", "network", attribute("batch_norm", eps=1e-40)),
    Tampering("a node that nothing reads", "network", without_node("add")),
    Tampering("the last node is not the end", "network", said(lambda v: v["network"]["nodes"].reverse())),
    # ------------------------------------------------------------------------------------------------ arrays
    Tampering("objects for an array", "arrays", objects),
    Tampering("an array of a later version", "arrays", broken_header),
    Tampering("bytes behind an array", "arrays", trailing),
    Tampering("inputs in binary64", "arrays", array("inputs", lambda v: v.astype(np.float64))),
    Tampering("classes in 32 bits", "arrays", array("class", lambda v: v.astype(np.int32))),
    Tampering("weights with their bytes the other way round", "arrays", array("constant/p_last_weight", lambda v: v.astype(">f4"))),
    Tampering("a NaN for a weight", "arrays", array("constant/p_last_weight", entry((0, 0), np.nan))),
    Tampering("an infinite input", "arrays", array("inputs", entry((0, 0, 0, 0), np.inf))),
    Tampering("a NaN for a gap", "arrays", array("least_gap", entry((0, 0), np.nan))),
    # ------------------------------------------------------------------------------------------------ claims
    Tampering("a class too few", "claims", array("class", lambda v: v[1:])),
    Tampering("one gap for two programs", "claims", array("least_gap", lambda v: v[:, 0])),
    Tampering("no inputs at all", "claims", everywhere(np.s_[:0])),
    Tampering("an input twice", "claims", everywhere([0, 0, 1])),
    Tampering("inputs in another order", "claims", everywhere([1, 0])),
    Tampering("a place beyond the data", "claims", array("index", entry(-1, 1000))),
    Tampering("a place before the data", "claims", array("index", entry(0, -1))),
    Tampering("a fourth method", "claims", array("method", entry((0, 0), 3))),
    Tampering("a gap of zero", "claims", array("least_gap", entry((0, 1), 0.0))),
    Tampering("a negative gap", "claims", array("least_gap", entry((0, 1), -1.0))),
    Tampering("a negative class", "claims", array("class", entry(0, -1))),
    # ------------------------------------------------------------------------------------------------ what is said is not so
    Tampering("a class that there is not", "claims", array("class", entry(0, 4))),
    Tampering("another class", "reference program", array("class", entry(0, lambda c: (c + 1) % 4))),
    Tampering("a larger gap of the reference", "reference program", array("least_gap", entry((0, 0), lambda g: g * 1.001))),
    Tampering("a smaller gap of the reference", "reference program", array("least_gap", entry((0, 0), lambda g: g * 0.999))),
    Tampering("a larger gap of the half program", "half program", array("least_gap", entry((0, 1), lambda g: g * 1.001))),
    Tampering("a cheaper method", "half program", array("method", lambda v: np.stack([v[:, 0], np.zeros_like(v[:, 1])], axis=1))),
    Tampering("a weight of the other sign", "reference program", array("constant/p_last_weight", entry((1, 3), lambda w: -w))),
    Tampering("a weight off by a thousandth", "reference program", array("constant/p_first_weight", lambda v: v * np.float32(1.001))),
    Tampering("a bias off by a thousandth", "reference program", array("constant/p_last_bias", lambda v: v + np.float32([0.001, 0, 0, 0]))),
    Tampering("inputs of half the size", "reference program", array("inputs", lambda v: v / 2)),
    Tampering("one input for another", "reference program", array("inputs", lambda v: v[::-1])),
    Tampering("inputs of another shape", "network", array("inputs", lambda v: v[:, :, :5])),
    Tampering("weights of another shape", "network", array("constant/p_last_weight", lambda v: v[:, 1:])),
    Tampering("a bias of another shape", "network", array("constant/p_last_bias", lambda v: v[:3])),
    Tampering("one bias for all", "network", array("constant/p_last_bias", lambda v: v[:1])),
    Tampering("a bias without a shape", "network", array("constant/p_last_bias", lambda v: v[0])),
    Tampering("a bias for every input", "network", array("constant/p_last_bias", lambda v: np.tile(v, (30, 1)))),
    Tampering("one variance for all channels", "network", array("constant/b_norm_running_var", lambda v: v[:1])),
    Tampering("weights of rank three", "network", array("constant/p_last_weight", lambda v: v[None])),
    Tampering(
        "one logit",
        "network",
        lambda m: array("constant/p_last_bias", lambda v: v[:1])(array("constant/p_last_weight", lambda v: v[:1])(m)),
    ),
    Tampering("padding of more than half a window", "network", attribute("max_pool2d", padding=[2, 2])),
    Tampering("a format that clears the screen", "statement", said(lambda v: v.update(format="\x1b[2J"))),
    Tampering(
        "a constant that clears the screen",
        "arrays",
        lambda m: said(lambda v: v["arrays"].update({"constant/\x1b[2J": ""}))({**m, "constant/\x1b[2J.npy": encoded(np.zeros(2))}),
    ),
    Tampering("another variance", "reference program", array("constant/b_norm_running_var", lambda v: v * np.float32(1.01))),
    Tampering("a negative variance", "reference program", array("constant/b_norm_running_var", lambda v: -v)),
    Tampering("two normalisations' means change places", "reference program", swapped("b_norm_running_mean", "b_plain_running_mean")),
    Tampering("another eps", "reference program", attribute("batch_norm", eps=0.01)),
    Tampering("another stride", "network", attribute("max_pool2d", stride=[1, 1])),
    Tampering("another padding", "network", attribute("conv2d", padding=[0, 0])),
    Tampering("groups that do not fit", "network", attribute("conv2d", groups=2)),
    Tampering("a ReLU less", "reference program", without_node("relu")),
    Tampering("a normalisation less", "network", without_node("batch_norm")),
    Tampering("binary16 for bfloat16", "half program", text("bfloat16", "binary16")),
    Tampering("sums in bfloat16", "half program", text('"accumulate": "binary32"', '"accumulate": "bfloat16"')),
    Tampering("a constant beyond the range", "reference program", array("constant/p_first_weight", entry((0, 0, 0, 0), 3.4028235e38))),
)
