"""Load a trained classifier from a file, by default without running anything that the file holds."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.models import factory, foreign, tensors
from precisionkit.models.files import Kind, ModelFile, read_model_file, shown
from precisionkit.models.onnx import open_onnx
from precisionkit.models.preprocess import Preprocess, from_record, to_record
from precisionkit.models.zoo import ZOO

FORMAT = "precisionkit.model/1"


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
        Zoo name, ``package.module:factory``, or how a trusted file describes itself.
    parameters : int
        Number of trained numbers.
    input_shape : tuple of int or None
        Without the batch; None when unknown.
    classes : int or None
        Number of outputs; None when unknown.
    preprocess : Preprocess
        From the caller, else from the file, else the architecture's own.
    """

    module: nn.Module
    path: str
    sha256: str
    arch: str
    parameters: int
    input_shape: tuple[int, ...] | None
    classes: int | None
    preprocess: Preprocess


@dataclass(frozen=True)
class _Opened:
    """What a file holds: tensors for an architecture, or with trust a whole module."""

    weights: tensors.Tensors | None = None
    module: nn.Module | None = None
    arch: str | None = None
    preprocess: Preprocess | None = None
    input_shape: tuple[int, ...] | None = None
    classes: int | None = None
    parameters: int | None = None  # where the module itself does not tell
    sha256: str | None = None  # where more than the file itself was read


def load_model(
    path: str | Path,
    *,
    arch: str | None = None,
    trust: bool = False,
    preprocess: Preprocess | None = None,
    input_shape: tuple[int, ...] | None = None,
) -> LoadedModel:
    """Load a classifier.

    Parameters
    ----------
    path : str or Path
        A state dict (.pt, .pth, .th), a .safetensors or .onnx file, or a file of `save_model`; with `trust` also a pickled
        module, a TorchScript archive or an exported program.
    arch : str or None
        A zoo name or ``package.module:factory``; may be left out where the file names it.
    trust : bool
        Whether code in the file may run.
    preprocess : Preprocess or None
        Replaces the file's or the architecture's own.
    input_shape : tuple of int or None
        Of one image, without the batch; needed only where the file does not tell: TorchScript, and some ONNX files.
    """
    file = read_model_file(path)
    opened = _open(file, arch=arch, trust=trust, input_shape=input_shape)
    where = _where(file)
    if arch is None and opened.module is not None:
        module, name, entry = opened.module, opened.arch or type(opened.module).__name__, None
    else:
        name = _architecture(arch, opened, where)
        module = factory.build(name)
        found = opened.weights if opened.weights is not None else _tensors_of(opened.module, where)
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
        preprocess=preprocess or opened.preprocess or (entry.preprocess if entry else Preprocess(mean=None, std=None)),
    )


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
    if file.kind is Kind.ONNX:
        return _open_onnx(file, arch, input_shape)
    if not trust:
        raise foreign.refusal(file)
    opened = foreign.open_trusted(file)
    if isinstance(opened, torch.export.ExportedProgram):
        if arch is not None:
            return _Opened(weights=tensors.find_tensors(opened.state_dict, _where(file)))
        program, shape, classes = foreign.program_module(opened, _where(file))
        return _Opened(module=program, arch="exported program", input_shape=shape, classes=classes)
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
    return _Opened(module=found.module, arch="ONNX", input_shape=found.input_shape, classes=found.classes, sha256=found.sha256)


def _read_safetensors(file: ModelFile) -> tensors.Tensors:
    try:
        return tensors.find_tensors(safetensors.torch.load(file.data), _where(file))
    except (safetensors.SafetensorError, KeyError, ValueError, RuntimeError):
        raise UnusableModelError(f"{_where(file)} is a damaged or cut off safetensors file; fetch or write it again.") from None


def _read_pickle(file: ModelFile, *, trust: bool) -> object:
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
    fixed = isinstance(module, foreign.Program)
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if fixed and tensor.is_floating_point() and tensor.dtype != torch.float32:
            raise UnusableModelError(
                f"{where} is a program in {tensor.dtype} (tensor {shown(name)}), but a float32 program is needed: export model.float()."
            )
    if not fixed:
        module.float()
    tensors.check_values(module, where)
    return module.cpu().eval().requires_grad_(False)
