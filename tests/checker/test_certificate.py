"""Certificates: what is written is accepted, every kind of tampering is refused at the step that it belongs to."""

import ast
import hashlib
import io
import subprocess
import sys
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from precisionkit import checker
from precisionkit.checker import FORMATS, REFERENCE, Certificate, CertificateError, Node, Rule, Source, check, derive, read, write

from .networks import built, inputs_for
from .tampering import KINDS, encoded, packed, resealed, tampered, unpacked

FOLDER = Path(checker.__file__).parent
BF16 = Rule(FORMATS["bfloat16"], FORMATS["binary32"])


@pytest.fixture(scope="module")
def certificate():
    """Of a residual network in bfloat16, for inputs that every method is needed for."""
    _, network = built("residual", 11)
    inputs = inputs_for("residual", 12, 40, 2.0)
    trace = checker.proof._forward(network.rounded(REFERENCE), REFERENCE, inputs.astype(np.float64), settle=False)
    classes = trace.balls[network.nodes[-1].name].mid.argmax(1)
    found = [derive(network, rule, inputs, classes) for rule in (REFERENCE, BF16)]
    methods, least = (np.stack(part, axis=1) for part in zip(*found, strict=True))
    kept = (least > 0).all(1)
    assert set(methods[kept, 1]) >= {0, 1}
    assert kept.sum() >= 10
    model, data = Source("net.pt", "a" * 64), Source("noise", "b" * 64)
    return Certificate(model, data, "test", 40, BF16, network, inputs[kept], np.nonzero(kept)[0], classes[kept], methods[kept], least[kept])


@pytest.fixture(scope="module")
def file(certificate, tmp_path_factory):
    path = tmp_path_factory.mktemp("certificates") / "net.cert"
    write(certificate, path)
    return path


def test_what_is_written_is_read_and_accepted(certificate, file):
    verified = check(file)
    assert np.array_equal(verified.rows, np.arange(len(certificate.index)))
    assert np.allclose(verified.least, certificate.least, rtol=1e-12)
    assert verified.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert verified.certificate.network.nodes == certificate.network.nodes


def test_equal_certificates_are_equal_files(certificate, file, tmp_path):
    write(read(file), tmp_path / "again.cert")
    assert (tmp_path / "again.cert").read_bytes() == file.read_bytes()
    write(replace(certificate, split="train"), tmp_path / "other.cert")
    assert (tmp_path / "other.cert").read_bytes() != file.read_bytes()


def test_a_sample_is_drawn_from_all_inputs(certificate, file):
    whole = check(file)
    drawn = [check(file, sample=5, seed=seed) for seed in (0, 1)]
    assert [len(some.rows) for some in drawn] == [5, 5]
    assert drawn[0].rows.tolist() != drawn[1].rows.tolist()
    for some in drawn:
        assert np.allclose(some.least, whole.least[some.rows], rtol=1e-9)
    assert len(check(file, sample=1000).rows) == len(certificate.index)


def test_progress_ends_with_all_inputs(file):
    told = []
    check(file, on_progress=lambda done, total: told.append((done, total)))
    total = 2 * len(read(file).index)
    assert told[-1] == (total, total)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.what)
def test_tampering_is_refused(kind, file, tmp_path):
    path = tmp_path / "forged.cert"
    tampered(kind, file, path)
    assert path.read_bytes() != file.read_bytes()
    with pytest.raises(CertificateError, match=rf"^Refused at the step '{kind.step}': ") as found:
        check(path)
    assert found.value.step == kind.step
    message = str(found.value)
    assert message.isascii()
    assert message.isprintable()
    assert message.endswith(".")


@pytest.mark.parametrize("where", ["constants", "inputs"])
def test_numbers_beyond_the_half_format_are_refused(where, certificate, tmp_path):
    """An entry that no class depends on, and that binary16 cannot hold."""
    _, network = built("one layer", 1)
    weight, inputs = network.constants["p_weight"].copy(), inputs_for("one layer", 2, 4)
    inputs[:, 0], weight[:, 0] = (0.0, 1e5) if where == "constants" else (1e5, 0.0)
    network = replace(network, constants={**network.constants, "p_weight": weight})
    classes = (inputs @ weight.T + network.constants["p_bias"]).argmax(1)
    methods, least = derive(network, REFERENCE, inputs, classes)
    assert (least > 0).all()
    fp16 = Rule(FORMATS["binary16"], FORMATS["binary32"])
    claims = replace(certificate, rule=fp16, network=network, inputs=inputs, index=np.arange(4), classes=classes)
    claims = replace(claims, methods=np.stack([methods] * 2, 1), least=np.stack([least] * 2, 1))
    write(claims, tmp_path / "large.cert")
    with pytest.raises(CertificateError, match=r"'half program': .* beyond the range of binary16, or is infinite or NaN\.$"):
        check(tmp_path / "large.cert")


def test_a_gap_that_cannot_be_derived_is_refused_as_such(certificate, tmp_path):
    """Also where the claim is what the checker derives, save for its sign."""
    _, network = built("residual", 11)
    inputs = inputs_for("residual", 12, 40, 2.0)
    others = (certificate.classes + 1) % 4
    methods, least = derive(network, REFERENCE, inputs[certificate.index], others)
    assert (least < 0).all()
    claims = replace(certificate, classes=others, methods=np.stack([methods] * 2, 1), least=np.stack([-least] * 2, 1))
    write(claims, tmp_path / "other.cert")
    with pytest.raises(CertificateError, match=r"input \d+, claimed for every run: class \d\. That cannot be derived\.$"):
        check(tmp_path / "other.cert")


class Runs:
    """Unpickling it leaves a file behind."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_is_never_run(file, tmp_path):
    members = unpacked(file)
    members["class.npy"] = encoded(np.array([Runs(tmp_path / "ran")], dtype=object), allow_pickle=True)
    packed(resealed(members), tmp_path / "pickle.cert")
    with pytest.raises(CertificateError, match="'class' is no array of numbers"):
        check(tmp_path / "pickle.cert")
    assert not (tmp_path / "ran").exists()


def test_there_are_at_least_forty_kinds_of_tampering():
    assert len({kind.what for kind in KINDS}) == len(KINDS) >= 40
    assert sum(kind.careful for kind in KINDS) >= 40


def test_resealing_alone_is_accepted(file, tmp_path):
    """So that careful forgeries are refused for what they change, not for how they are packed."""
    packed(resealed(unpacked(file)), tmp_path / "same.cert")
    assert check(tmp_path / "same.cert").rows.size


def test_an_archive_that_unpacks_to_too_much_is_not_unpacked(file, monkeypatch):
    monkeypatch.setattr(checker.certificate, "_MOST_BYTES", 1000)
    with pytest.raises(CertificateError, match=r"^Refused at the step 'container': the archive holds \d+ bytes, more than"):
        read(file)


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_members_that_unpack_in_one_go_are_not_unpacked(method, file, tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.cert", "w", method) as archive:
        for name, content in unpacked(file).items():
            archive.writestr(name, content)
    with pytest.raises(CertificateError, match="'container': a member of the archive is packed otherwise than by deflate"):
        read(tmp_path / "bomb.cert")


def test_no_more_is_unpacked_than_the_archive_says(file, tmp_path):
    """64 MB of zeros that the archive says are 10 bytes."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in unpacked(file).items():
            archive.writestr(name, content)
        archive.writestr("class.npz", b"\0" * 2**26)
    raw = bytearray(data.getvalue())
    record = raw.rindex(b"PK\x01\x02")
    raw[record + 24 : record + 28] = (10).to_bytes(4, "little")
    (tmp_path / "bomb.cert").write_bytes(raw)
    tracemalloc.start()
    with pytest.raises(CertificateError, match="'container'"):
        read(tmp_path / "bomb.cert")
    assert tracemalloc.get_traced_memory()[1] < 2**23
    tracemalloc.stop()


HEADERS = (
    "{'descr':'<i8','fortran_order':False,'shape':((((",
    "{'descr':'''<i8",
    "  1\n 2\n   3",
    "{'descr': (), 'fortran_order': False, 'shape': (3,), }",
    "{'descr': '<i8,,', 'fortran_order': False, 'shape': (3,), }",
    f"{{'descr': '<i8', 'fortran_order': False, 'shape': ({2**200},), }}",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999, 9999999999), }",
    "{'descr': '<i8', 'fortran_order': True, 'shape': (3,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (-1,), }",
    "{'descr': '<i8', 'fortran_order': False, 'shape': (3L,), }",
    "+".join("1" * 4000),
)


@pytest.mark.parametrize("header", HEADERS, ids=range(len(HEADERS)))
def test_headers_of_arrays_are_matched_and_not_evaluated(header, file, tmp_path):
    members = unpacked(file)
    line = header.encode() + b"\n"
    members["class.npy"] = b"\x93NUMPY\x01\x00" + len(line).to_bytes(2, "little") + line + bytes(24)
    packed(resealed(members), tmp_path / "header.cert")
    with pytest.raises(CertificateError, match=r"'arrays': 'class' (is no array of numbers|does not have as many bytes)"):
        check(tmp_path / "header.cert")


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3)])
@pytest.mark.parametrize("dtype", ["float32", "int64", "uint8", "float64"])
def test_arrays_are_those_of_numpy(shape, dtype):
    values = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    name = {"float32": "inputs", "int64": "class", "uint8": "method", "float64": "least_gap"}[dtype]
    mine = checker.certificate._encoded(values)
    assert np.array_equal(np.load(io.BytesIO(mine)), values)
    for written in (mine, encoded(values)):
        again = checker.certificate._decoded(name, written)
        assert again.shape == shape
        assert np.array_equal(again, values)


LARGE = {
    "padding": [Node("c", "conv2d", ("x", "k", None), {"stride": [1, 1], "padding": [65535] * 2, "dilation": [1, 1], "groups": 1})],
    "kernel": [
        Node("c", "max_pool2d", ("x",), {"stride": [1, 1], "padding": [1500] * 2, "dilation": [1, 1], "kernel_size": [3000] * 2}),
        Node("d", "conv2d", ("c", "k", None), {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}),
    ],
}


@pytest.mark.parametrize("what", LARGE)
def test_arrays_that_would_be_too_large_are_never_made(what, certificate, tmp_path):
    network = checker.Network("x", tuple(LARGE[what]), {"k": np.ones((1, 1, 1, 1), np.float32)})
    one = np.ones((1, 1, 1, 1), np.float32)
    claims = replace(certificate, network=network, inputs=one, index=np.array([0]), classes=np.array([0]))
    write(replace(claims, methods=certificate.methods[:1], least=certificate.least[:1]), tmp_path / "large.cert")
    tracemalloc.start()
    with pytest.raises(CertificateError, match=r"'network': at node 'c', (an array|windows) of .* than the checker takes"):
        check(tmp_path / "large.cert")
    assert tracemalloc.get_traced_memory()[1] < 2**22
    tracemalloc.stop()


def test_a_file_that_is_not_there_is_no_refusal(tmp_path):
    with pytest.raises(FileNotFoundError):
        check(tmp_path / "none.cert")


# ----------------------------------------------------------------------------------------------------------- independence
def imports(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            yield node.module


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.py")), ids=lambda path: path.name)
def test_the_checker_imports_numpy_and_itself_alone(path):
    for name in imports(path):
        top = name.split(".")[0]
        assert top in sys.stdlib_module_names or top == "numpy" or name.startswith("precisionkit.checker"), name


def test_the_checker_can_be_read_in_an_hour():
    lines = [line for path in FOLDER.glob("*.py") for line in path.read_text().splitlines() if line.strip()]
    assert len(lines) < 1200


def test_it_runs_without_the_rest_of_the_package(file, tmp_path):
    """Copied elsewhere, beside nothing, with nothing but numpy to import."""
    (tmp_path / "precisionkit" / "checker").mkdir(parents=True)
    (tmp_path / "precisionkit" / "__init__.py").touch()
    for path in FOLDER.glob("*.py"):
        (tmp_path / "precisionkit" / "checker" / path.name).write_text(path.read_text())
    program = (
        "import sys; from pathlib import Path; from precisionkit.checker import check\n"
        f"print(len(check(Path({str(file)!r})).rows)); assert not [m for m in sys.modules if m.split('.')[0] in ('torch', 'msgspec')]"
    )
    made = subprocess.run([sys.executable, "-c", program], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    assert int(made.stdout) == len(read(file).index)
