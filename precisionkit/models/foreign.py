"""Files that carry code: pickled modules and TorchScript archives.

They are refused with the way out.  The functions below that open them run code from the file and are reached only when the
user said that she trusts it.
"""

from __future__ import annotations

import io

import torch
from torch import nn

from precisionkit.errors import UnusableModelError, first_line
from precisionkit.models.files import Kind, ModelFile, shown
from precisionkit.models.quiet import quiet

_LISTED = 3

_OPENERS = {
    Kind.PICKLE: "torch.load({path!r}, weights_only=False)",
    Kind.TORCHSCRIPT: "torch.jit.load({path!r})",
}


class Program(nn.Module):
    """A converted TorchScript module in evaluation form (torch's own refuses ``eval()``)."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program
        self.training = False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Run the program."""
        outputs: torch.Tensor = self.program(x)
        return outputs

    def train(self, mode: bool = True) -> Program:
        """Do nothing: the mode was fixed when the program was captured."""
        del mode
        return self


def refusal(file: ModelFile) -> UnusableModelError:
    """Return the error for a file that could run code, with the three lines that turn it into plain weights."""
    named = ", ".join(shown(name) for name in file.code_names[:_LISTED])
    what = {
        Kind.PICKLE: f"holds pickled Python objects beside tensors (it names {named}{', ...' if len(file.code_names) > _LISTED else ''})",
        Kind.TORCHSCRIPT: "is a TorchScript archive",
    }[file.kind]
    return UnusableModelError(
        f"The model file {file.path} {what}, and loading it can run code from the file. "
        "Where you trust it, save its weights and name the architecture:\n"
        f"    model = {_OPENERS[file.kind].format(path=file.path)}\n"
        '    torch.save(model.state_dict(), "weights.pt")\n'
        "    precisionkit certify weights.pt --arch package.module:factory\n"
        "--trust loads it, which runs code from the file."
    )


def open_trusted(file: ModelFile) -> object:
    """Open a file that may run code; return what it holds, a module or a checkpoint."""
    data = io.BytesIO(file.data)
    try:
        with quiet("torch._export"):
            if file.kind is Kind.TORCHSCRIPT:
                return torch.jit.load(data, map_location="cpu")
            return torch.load(data, map_location="cpu", weights_only=False)
    except (ModuleNotFoundError, AttributeError) as error:
        name = shown(first_line(error))
        raise UnusableModelError(
            f"The model file {file.path} cannot be opened, because the Python code of its classes is not found ({name}): "
            "run in an environment that has it, or save model.state_dict() there."
        ) from error
    except Exception as error:  # code from the file may raise anything
        raise UnusableModelError(
            f"The model file {file.path} cannot be opened, even trusted ({type(error).__name__}): "
            "it is damaged, or of an unsuitable PyTorch version; save model.state_dict() where it was written."
        ) from error


def scripted_module(script: torch.jit.ScriptModule, input_shape: tuple[int, ...] | None, where: str) -> Program:
    """Convert a TorchScript module into an exported program with a free batch; refuse when torch cannot, or when it differs."""
    way_out = "load its weights with --arch package.module:factory instead."
    if input_shape is None:
        raise UnusableModelError(f"{where} is a TorchScript archive, which does not tell the shape of its input: {way_out}")
    script.eval()
    sample = torch.linspace(-1, 1, 3).reshape(3, *(1 for _ in input_shape)) * torch.ones(3, *input_shape)
    try:
        with quiet("torch._export"), torch.no_grad():
            from torch._export.converter import TS2EPConverter  # private, and the only way that torch offers

            converted = TS2EPConverter(script, (sample,)).convert().module(check_guards=False)
            dynamic = ({0: torch.export.Dim("batch", min=2)},)
            module = torch.export.export(converted, (sample,), dynamic_shapes=dynamic).module()
            same = _agree(module(sample[:2]), script(sample[:2]))
    except Exception as error:  # the converter raises many types, and long texts
        raise UnusableModelError(
            f"{where} is a TorchScript archive that cannot be converted for inputs of shape {input_shape} "
            f"({type(error).__name__}): {way_out}"
        ) from error
    if not same:
        raise UnusableModelError(f"{where} is a TorchScript archive whose conversion computes other values: {way_out}")
    return Program(module)


def _agree(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two outputs are equal up to the order of summation."""
    return torch.allclose(left, right, rtol=1e-4, atol=1e-4 * float(right.abs().max()))
