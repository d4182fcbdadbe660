"""Load a trained classifier from a file, by default without running anything that the file holds."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from precisionkit.errors import PrecisionKitError, UnsupportedOperatorError, UnusableModelError, UsageError
from precisionkit.models import factory, foreign, named, pt2, tensors
from precisionkit.models.files import Kind, ModelFile, read_model_file, shown
from precisionkit.models.onnx import list_graph, open_onnx
from precisionkit.models.outline import Outline
from precisionkit.models.preprocess import Preprocess, from_record, to_record
from precisionkit.models.transforms import from_transform
from precisionkit.models.zoo import ZOO, bundled_model, bundled_names

FORMAT = "precisionkit.model/1"

_FILLED = ".bytearray"  # torch lets a pickle ask for one of any length, and fills it


@dataclass(frozen=True)
class LoadedModel:
    """A classifier ready to be captured.

    Attributes
    ----------
    module : nn.Module
        Binary32, in evaluation mode, on the CPU, without gradients.
    path, sha256 : str
        The file, and the hash of its bytes.
    arch : str
        Zoo name, ``package.module:factory``, a library's name with its weights, or what holds the whole network: "exported program",
        "TorchScript", a class.
    parameters : int
        Number of trained numbers.
    input_shape : tuple of int or None
        Without the batch; None when unknown.
    classes : int or None
        Number of outputs; None when unknown.
    preprocess : Preprocess
        From the caller, else from the file, else the architecture's own.
    input_dtype : torch.dtype or None
        float32 for images and numbers, int64 for tokens; None when unknown.
    stored : str
        The formats of the file's weights where they are not all float32, of which they were converted.
    """

    module: nn.Module
    path: str
    sha256: str
    arch: str
    parameters: int
    input_shape: tuple[int, ...] | None
    classes: int | None
    preprocess: Preprocess
    input_dtype: torch.dtype | None = None
    stored: str = ""


@dataclass(frozen=True)
class _Opened:
    """What a file holds: tensors for an architecture, or a whole module."""

    weights: tensors.Tensors | None = None
    module: nn.Module | None = None
    arch: str | None = None
    preprocess: Preprocess | None = None
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    parameters: int | None = None  # where the module itself does not tell
    sha256: str | None = None  # where more than the file itself was read
    input_dtype: torch.dtype | None = None


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    trust: bool = False,
    preprocess: object = None,
    input_shape: tuple[int, ...] | None = None,
    weights: str | Path | None = None,
    download: bool = False,
) -> LoadedModel:
    """Load a classifier.

    Parameters
    ----------
    path : str or Path
        A state dict (.pt, .pth, .th), a .safetensors or .onnx file, an exported program (.pt2) or a file of `save_model`; with `trust`
        also a pickled module or a TorchScript archive.  Or a model by name: ``torchvision:NAME``, ``timm:NAME``, or ``hf:FOLDER`` for
        a folder that Hugging Face's library saved; a name of the zoo, or ``package.module:factory``.
    arch : str or None
        A zoo name or ``package.module:factory``; may be left out where the file names it.
    trust : bool
        Whether code in the file may run.
    preprocess : Preprocess or transform or None
        Replaces the file's or the architecture's own; may be a transform of torchvision.
    input_shape : tuple of int or None
        Of one image, without the batch; needed only where the file does not tell: TorchScript, and some ONNX files.
    weights : str or Path or None
        Of a model by name: a file, ``default`` for those that its library publishes, or ``random`` or ``random:SEED``; may be left out
        where they come with this package.
    download : bool
        Whether published weights may be fetched.
    """
    given = preprocess if preprocess is None or isinstance(preprocess, Preprocess) else from_transform(preprocess)
    if named.is_named(str(path)):
        if arch is not None:
            raise UsageError(f"{shown(str(path))} names its architecture: leave out --arch.")
        return _by_name(str(path), given, weights, trust=trust, download=download)
    if factory.is_architecture(str(path)) and not Path(path).exists():
        if arch is not None:
            raise UsageError(f"{shown(str(path))} names its architecture: leave out --arch.")
        return _by_architecture(str(path), given, weights, trust=trust)
    if weights is not None and Path(path).exists():
        raise UsageError(f"{shown(str(path))} is a file with weights of its own: leave out --weights, which is for models by name.")
    return _from_file(path, arch, given, trust=trust, input_shape=input_shape)


def _by_architecture(arch: str, preprocess: Preprocess | None, weights: str | Path | None, *, trust: bool) -> LoadedModel:
    """A network of the zoo, or of the user's own code, by name."""
    if weights is None:
        if arch not in bundled_names():
            raise UsageError(f"{shown(arch)} names an architecture: give its weights with --weights FILE, or --weights random.")
        weights = bundled_model(arch)
    seed = named.seed_of(str(weights))
    if seed is None:
        named.refuse_no_file(arch, str(weights), "FILE or random")
        return _from_file(weights, arch, preprocess, trust=trust, input_shape=None)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = factory.build(arch)
    entry = ZOO.get(arch)
    return LoadedModel(
        module=_ready(module, f"The model {shown(arch)}"),
        path=arch,
        sha256=named.digest(module),
        arch=f"{arch} (random weights, seed {seed})",
        parameters=sum(parameter.numel() for parameter in module.parameters()),
        input_shape=entry.input_shape if entry else None,
        classes=entry.classes if entry else None,
        preprocess=preprocess or (entry.preprocess if entry else Preprocess()),
        input_dtype=torch.float32 if entry else None,
    )


def _by_name(path: str, preprocess: Preprocess | None, weights: str | Path | None, *, trust: bool, download: bool) -> LoadedModel:
    stored: list[str] = []

    def read(file: str) -> tuple[tensors.Tensors, str]:
        found = read_model_file(file)
        opened = _open(found, arch=path, trust=trust, input_shape=None)
        weights = opened.weights if opened.weights is not None else _tensors_of(opened.module, _where(found))
        stored.append(tensors.formats(weights.values()))
        return weights, found.sha256

    asked = named.Asked(None if weights is None else str(weights), read, download=download, preprocessed=preprocess is not None)
    model = named.load_named(path, asked)
    return LoadedModel(
        module=_ready(model.module, f"The model {shown(path)}"),
        path=model.path,
        sha256=model.sha256,
        arch=model.arch,
        parameters=sum(parameter.numel() for parameter in model.module.parameters()),
        input_shape=model.input_shape,
        classes=model.classes,
        preprocess=preprocess or model.preprocess,
        input_dtype=model.input_dtype,
        stored=", ".join(filter(None, dict.fromkeys(stored))),
    )


def _from_file(
    path: str | Path, arch: str | None, preprocess: Preprocess | None, *, trust: bool, input_shape: tuple[int, ...] | None
) -> LoadedModel:
    file = read_model_file(path)
    opened = _open(file, arch=arch, trust=trust, input_shape=input_shape)
    where = _where(file)
    if arch is None and opened.module is not None:
        module, name, entry = opened.module, opened.arch or type(opened.module).__name__, None
        stored = tensors.formats(module.state_dict().values())
    else:
        name = _architecture(arch, opened, where)
        module = factory.build(name)
        found = opened.weights if opened.weights is not None else _tensors_of(opened.module, where)
        stored = tensors.formats(found.values())
        tensors.fit(found, module.float(), arch=name, where=where)
        entry = ZOO.get(name)
    return LoadedModel(
        module=_ready(module, where),
        path=str(path),
        sha256=opened.sha256 or file.sha256,
        arch=name,
        parameters=opened.parameters or sum(parameter.numel() for parameter in module.parameters()),
        input_shape=entry.input_shape if entry else opened.input_shape,
        classes=entry.classes if entry else opened.classes,
        preprocess=preprocess or opened.preprocess or (entry.preprocess if entry else Preprocess()),
        input_dtype=torch.float32 if entry else opened.input_dtype,
        stored=stored,
    )


def list_model(path: str | Path, error: PrecisionKitError) -> Outline | None:
    """List the operators of a file that could not be opened, each with the reason where it is one; None where it is not for them.

    Parameters
    ----------
    path : str or Path
        An exported program or an ONNX file.
    error : PrecisionKitError
        Why it could not be opened.
    """
    if named.is_named(str(path)) or not Path(path).is_file():
        return None
    try:
        file = read_model_file(path)
        if file.kind not in (Kind.PROGRAM, Kind.ONNX):
            return None
        found = pt2.list_program(file) if file.kind is Kind.PROGRAM else list_graph(file, _where(file))
    except (PrecisionKitError, RecursionError, ValueError):  # damage, which the first error tells
        return None
    at = shown(error.node) if isinstance(error, UnsupportedOperatorError) and error.node else None
    listed = tuple(replace(one, reason=one.reason or (str(error) if one.name == at else "")) for one in found.operators)
    return replace(found, operators=listed) if any(one.reason for one in listed) else None


def save_model(path: str | Path, module: nn.Module, *, arch: str, preprocess: Preprocess) -> None:
    """Write the project's own format: plain data that loads with ``weights_only=True``, in one atomic step."""
    state = {key: value.detach().cpu().contiguous().clone() for key, value in module.state_dict().items()}
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "arch": arch, "state_dict": state, "preprocess": to_record(preprocess)}, buffer)
    target = Path(path)
    temporary: str | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        with os.fdopen(handle, "wb") as stream:
            stream.write(buffer.getvalue())
        Path(temporary).chmod(0o644)  # mkstemp makes files that only their owner reads
        Path(temporary).replace(target)
    except OSError as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        raise UnusableModelError(f"The model cannot be written to {path} ({error.strerror}): choose another place.") from None


def _where(file: ModelFile) -> str:
    return f"The model file {file.path}"


def _open(file: ModelFile, *, arch: str | None, trust: bool, input_shape: tuple[int, ...] | None) -> _Opened:
    if file.kind is Kind.SAFETENSORS:
        return _Opened(weights=_read_safetensors(file))
    if file.kind is Kind.PICKLE:
        loaded = _read_pickle(file, trust=trust)
        return _Opened(module=loaded) if isinstance(loaded, nn.Module) else _from_checkpoint(loaded, file, trust=trust)
    if file.kind is Kind.PROGRAM:
        if arch is not None:
            return _Opened(weights=tensors.find_tensors(pt2.read_weights(file), _where(file)))
        program = pt2.read_program(file)
        return _Opened(
            module=program.module,
            arch="exported program",
            input_shape=program.input_shape,
            classes=program.classes,
            input_dtype=program.input_dtype,
        )
    if file.kind is Kind.ONNX:
        return _open_onnx(file, arch, input_shape)
    if not trust:
        raise foreign.refusal(file)
    opened = foreign.open_trusted(file)
    assert isinstance(opened, torch.jit.ScriptModule)  # the only other kind left
    if arch is not None:
        return _Opened(weights=tensors.find_tensors(opened.state_dict(), _where(file)))
    scripted = foreign.scripted_module(opened, input_shape, _where(file))
    parameters = sum(parameter.numel() for parameter in opened.parameters())  # conversion turns them into buffers
    return _Opened(module=scripted, arch="TorchScript", input_shape=input_shape, parameters=parameters)


def _open_onnx(file: ModelFile, arch: str | None, input_shape: tuple[int, ...] | None) -> _Opened:
    if arch is not None:
        raise UsageError(f"{_where(file)} is an ONNX file, which holds its own architecture: leave out --arch {shown(arch)}.")
    found = open_onnx(file, input_shape, _where(file))
    return _Opened(
        module=found.module,
        arch="ONNX",
        input_shape=found.input_shape,
        classes=found.classes,
        sha256=found.sha256,
        input_dtype=found.input_dtype,
    )


def _read_safetensors(file: ModelFile) -> tensors.Tensors:
    try:
        return tensors.find_tensors(safetensors.torch.load(file.data), _where(file))
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError):
        raise UnusableModelError(f"{_where(file)} is a damaged or cut off safetensors file; fetch or write it again.") from None


def _read_pickle(file: ModelFile, *, trust: bool) -> object:
    if not any(name.endswith(_FILLED) for name in file.names):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about its own old storage classes
                return torch.load(io.BytesIO(file.data), map_location="cpu", weights_only=True)
        except Exception as error:  # damage raises a dozen types; torch's texts recommend unsafe loading and are not shown
            if not file.code_names:
                raise UnusableModelError(
                    f"{_where(file)} is damaged or cut off: its tensors cannot be read; fetch it again, or write it with "
                    "torch.save(model.state_dict(), FILE)."
                ) from error
    if trust:
        return foreign.open_trusted(file)
    raise foreign.refusal(file)


def _from_checkpoint(loaded: object, file: ModelFile, *, trust: bool) -> _Opened:
    where = _where(file)
    if not (isinstance(loaded, Mapping) and isinstance(loaded.get("format"), str) and loaded["format"].startswith("precisionkit.model/")):
        if trust and isinstance(loaded, Mapping):
            for key in ("model", "net"):
                if isinstance(loaded.get(key), nn.Module):  # a checkpoint that pickled the whole module
                    return _Opened(module=loaded[key])
        return _Opened(weights=tensors.find_tensors(loaded, where))
    if loaded["format"] != FORMAT:
        raise UnusableModelError(
            f"{where} has the format {shown(loaded['format'])}, but this version reads {FORMAT}: update precisionkit, or save it again."
        )
    arch = loaded.get("arch")
    if not isinstance(arch, str):
        raise UnusableModelError(f"{where} has the format {FORMAT} but names no architecture: save it again.")
    try:
        preprocess = from_record(loaded.get("preprocess"))
    except UsageError as error:
        raise UnusableModelError(f"{where} describes no usable preprocessing. {error}") from None
    # a factory that a file names is the file's code, unless the user names it herself
    return _Opened(weights=tensors.find_tensors(loaded.get("state_dict"), where), arch=arch, preprocess=preprocess)


def _architecture(arch: str | None, opened: _Opened, where: str) -> str:
    if arch is not None:
        return arch
    if opened.arch is not None:
        if opened.arch not in ZOO:
            raise UsageError(
                f"{where} asks to import the code {shown(opened.arch)!r}, which is done only when you name it yourself: "
                f"add --arch {shown(opened.arch)}."
            )
        return opened.arch
    fitting = tensors.candidates(opened.weights or {})
    if fitting:
        way_out = f"its tensors fit --arch {' or --arch '.join(fitting)}."
    else:
        way_out = f"its tensors fit no built-in one ({', '.join(ZOO)}), so give --arch package.module:factory."
    raise UsageError(f"{where} holds only weights, so the architecture must be named: {way_out}")


def _tensors_of(module: nn.Module | None, where: str) -> tensors.Tensors:
    return {} if module is None else tensors.find_tensors(module.state_dict(), where)


def _ready(module: nn.Module, where: str) -> nn.Module:
    fixed = isinstance(module, (foreign.Program, pt2.ProgramModule))
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if fixed and tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UnusableModelError(
                f"{where} is a program in {tensor.dtype} (tensor {shown(name)}), but a float32 program is needed: export model.float()."
            )
    if not fixed:
        module.float()
    tensors.check_values(module, where)
    return module.cpu().eval().requires_grad_(False)
