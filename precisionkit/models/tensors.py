"""Find the tensors in a weight file, check them, and put them into a module."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.models.files import shown
from precisionkit.models.zoo import ZOO

Tensors = dict[str, torch.Tensor]

_WRAPPERS = ("state_dict", "model_state_dict", "model", "net")
_DEPTH = 4  # wrappers in wrappers; deeper is no checkpoint
_LISTED = 4  # names shown of each sort in a message


def find_tensors(loaded: object, where: str) -> Tensors:
    """Return the state dict inside a loaded checkpoint, whichever usual wrapper it is in.

    Parameters
    ----------
    loaded : object
        What ``torch.load(weights_only=True)`` returned.
    where : str
        Names the file in error messages.
    """
    for _ in range(_DEPTH):
        if isinstance(loaded, list | tuple) and len(loaded) == 1:
            loaded = loaded[0]
        elif isinstance(loaded, Mapping) and (key := _wrapper(loaded)):
            loaded = loaded[key]
    if len(several := _states(loaded)) > 1:
        raise UnusableModelError(
            f"{where} holds the weights of {len(several)} networks, under {', '.join(shown(key, 30) for key in several[:6])}: "
            "save those of one with torch.save(model.state_dict(), FILE)."
        )
    if not isinstance(loaded, Mapping) or not any(isinstance(value, torch.Tensor) for value in loaded.values()):
        raise UnusableModelError(
            f"{where} holds no weights, but {_described(loaded)}: save them with torch.save(model.state_dict(), FILE), or put them "
            f"under one of the keys {', '.join(_WRAPPERS)}."
        )
    for key, value in loaded.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise UnusableModelError(
                f"{where} holds {shown(str(key))!r}, of type {type(value).__name__}, beside its tensors: "
                "save only model.state_dict(), or put it under the key state_dict."
            )
    return {str(key): value for key, value in loaded.items() if not _is_counter(key)}


def _counted(count: int) -> str:
    return f"{count} tensor{'s' * (count > 1)}"


def fit(tensors: Tensors, module: nn.Module, *, arch: str, where: str, way_out: str = "give the --arch that it was trained with") -> None:
    """Copy tensors into a module under its names, cast to its dtypes; refuse unless names and shapes match exactly, with the way out."""
    shapes = _shapes(module)
    names = _renamed(tensors, shapes, arch)
    missing = [key for key in shapes if key not in names]
    unexpected = [key for key in names if key not in shapes]
    wrong = [
        f"{key} is {tuple(value.shape)}, not {shapes[key]}"
        for key, value in names.items()
        if key in shapes and tuple(value.shape) != shapes[key]
    ]
    parts = [
        f"{_counted(len(found))} {word} ({', '.join(map(shown, found[:_LISTED]))}{', ...' if len(found) > _LISTED else ''})"
        for found, word in ((missing, "missing"), (unexpected, "unexpected"), (wrong, "of another shape"))
        if found
    ]
    if parts:
        others = [name for name in candidates(tensors) if name != arch]
        way_out = f"its tensors fit --arch {' or '.join(others)}" if others else way_out
        raise UnusableModelError(f"{where} does not fit the architecture {arch}: {'; '.join(parts)}; {way_out}.")
    for key, target in module.state_dict().items():
        if not _is_counter(key):
            with torch.no_grad():
                target.copy_(_checked(key, names[key], target.dtype, where))


def formats(tensors: Iterable[torch.Tensor]) -> str:
    """The formats of floating-point tensors, where they are not all float32."""
    found = {str(tensor.dtype).removeprefix("torch.") for tensor in tensors if tensor.is_floating_point()}
    return "" if found <= {"float32"} else ", ".join(sorted(found))


def candidates(tensors: Tensors) -> tuple[str, ...]:
    """Return the names of the built-in architectures whose tensor names and shapes are exactly these, of those that can be built here."""
    found = []
    for name, entry in ZOO.items():
        try:
            with torch.device("meta"):
                shapes = _shapes(entry.build())
        except UsageError:  # it is torchvision's, which is not installed
            continue
        renamed = _renamed(tensors, shapes, name)
        if {key: tuple(value.shape) for key, value in renamed.items()} == shapes:
            found.append(name)
    return tuple(found)


def check_values(module: nn.Module, where: str) -> None:
    """Refuse a module with a number that is not finite, but for masks of minus infinity, or with a negative variance."""
    for name, tensor in (*module.named_parameters(), *module.named_buffers()):
        if not tensor.is_floating_point():
            continue
        hidden = tensor == -torch.inf
        if not bool((torch.isfinite(tensor) | hidden).all()):
            raise UnusableModelError(
                f"{where} holds NaN or infinity in the tensor {shown(name)}: the network cannot be judged; train or export it again."
            )
        if tensor.numel() > 1 and bool(hidden.any()) and bool(hidden.all(-1).any()):  # one number alone is filled in somewhere
            raise UnusableModelError(
                f"{where} holds a row of minus infinities in the tensor {shown(name)}, and a mask must keep one entry of every row: "
                "the softmax of nothing does not exist; correct the mask, and export the network again."
            )
        if name.endswith("running_var") and tensor.numel() and float(tensor.min()) < 0:
            raise UnusableModelError(
                f"{where} holds the negative variance {float(tensor.min()):g} in the tensor {shown(name)}: "
                "its square root does not exist; train or export the network again."
            )


def _wrapper(loaded: Mapping[object, object]) -> str | None:
    for key in _WRAPPERS:
        if isinstance(loaded.get(key), Mapping | list | tuple):
            return key
    if any(isinstance(value, torch.Tensor) for value in loaded.values()):
        return None
    states = _states(loaded)
    return states[0] if len(states) == 1 else None


def _states(loaded: object) -> list[str]:
    """Keys under which there is nothing but tensors by names."""
    return [
        key
        for key, value in (loaded.items() if isinstance(loaded, Mapping) else ())
        if isinstance(key, str) and isinstance(value, Mapping) and value and all(isinstance(v, torch.Tensor) for v in value.values())
    ]


def _described(loaded: object) -> str:
    if isinstance(loaded, Mapping):
        return f"a dictionary with the keys {', '.join(shown(str(key), 30) for key in list(loaded)[:6]) or '(none)'}"
    return f"an object of type {type(loaded).__name__}"


def _is_counter(key: object) -> bool:
    return isinstance(key, str) and key.rpartition(".")[2] == "num_batches_tracked"  # it does nothing in evaluation


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {key: tuple(value.shape) for key, value in module.state_dict().items() if not _is_counter(key)}


def _renamed(tensors: Tensors, shapes: Mapping[str, object], arch: str) -> Tensors:
    """Return the tensors under the names that match: the file's own, without wrapper prefixes, or as the zoo renames them."""
    rename: Callable[[str], str] = ZOO[arch].rename if arch in ZOO else str
    bare = without_prefixes(tensors)
    options = (tensors, bare, {rename(key): value for key, value in bare.items()})
    return next((option for option in options if option.keys() == shapes.keys()), options[-1])


def without_prefixes(tensors: Tensors) -> Tensors:
    """Strip what DataParallel (``module.``) and torch.compile (``_orig_mod.``) put before names."""
    bare = {re.sub(r"(^|\.)_orig_mod\.", r"\1", key): value for key, value in tensors.items()}
    while bare and all(key.startswith("module.") for key in bare):
        bare = {key.removeprefix("module."): value for key, value in bare.items()}
    return bare


def _checked(key: str, value: torch.Tensor, dtype: torch.dtype, where: str) -> torch.Tensor:
    usable = value.layout is torch.strided and value.device.type == "cpu" and value.is_floating_point() == dtype.is_floating_point
    if not usable or value.is_complex():
        raise UnusableModelError(
            f"{where} holds the tensor {shown(key)} as {value.dtype} ({value.layout}, {value.device.type}), where {dtype} is needed: "
            "only dense floating weights are read, so save an unquantised, dense state dict."
        )
    cast = value.detach().to(dtype)
    if dtype.is_floating_point and not torch.equal(torch.isfinite(cast), torch.isfinite(value)):
        raise UnusableModelError(f"{where} holds a number in the tensor {shown(key)} that is beyond the range of {dtype}: rescale it.")
    return cast
