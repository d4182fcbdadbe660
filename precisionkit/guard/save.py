"""Plans and guarded models as files: JSON, and weights as safetensors; nothing in them can run."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import safetensors
import safetensors.torch
import torch
from torch import nn

from precisionkit.errors import UnusableModelError, UsageError
from precisionkit.guard.guarded import GuardedHalf
from precisionkit.guard.rates import MOST_ROWS, expected_counts
from precisionkit.guard.rows import count_of
from precisionkit.guard.threshold import allowed_scores
from precisionkit.models import LoadedModel
from precisionkit.report import check_writable, write_file, write_json
from precisionkit.report.guard import PLAN_SCHEMA, GuardPlan
from precisionkit.report.read import UNREADABLE, another_kind

PLAN, WEIGHTS = "guard.json", "weights.safetensors"


def save_guarded(guarded: GuardedHalf, path: str | Path) -> tuple[Path, ...]:
    """Write the plan, or a folder with the plan and the binary32 weights.

    Parameters
    ----------
    path : str or Path
        A file if it ends in ``.json``, else a folder, which is created.

    Returns
    -------
    tuple of Path
        The files.

    Raises
    ------
    ReportError, UsageError
        It cannot be written.
    """
    target = Path(path)
    if target.suffix == ".json":
        write_json(guarded.plan, target)
        return (target,)
    check_target(target)
    target.mkdir(exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in guarded.reference.state_dict().items()}
    write_file(target / WEIGHTS, safetensors.torch.save(tensors))
    write_json(guarded.plan, target / PLAN)  # last: a folder without it is no guarded model
    return target / PLAN, target / WEIGHTS


def check_target(path: Path) -> None:
    """Refuse, before a long run, what `save_guarded` could not write."""
    if path.suffix != ".json" and path.exists() and not path.is_dir():
        raise UsageError(f"'{path}' is a file, but a guarded model is a FOLDER, and a plan a file that ends in .json: choose another name.")
    check_writable(files_of(path)[0] if path.is_dir() else path)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of a plan, or of the folder of a guarded model."""
    return (path / PLAN, path / WEIGHTS) if path.is_dir() else (path,)


def read_plan(path: str | Path) -> GuardPlan:
    """Read a plan from its file, or from the folder of a guarded model.

    Raises
    ------
    UsageError
        There is none, or it is damaged.
    """
    file = files_of(Path(path))[0]
    try:
        plan = msgspec.json.decode(file.read_bytes(), type=GuardPlan)
    except OSError as error:
        raise UsageError(f"The plan '{file}' cannot be read ({error.strerror}): give what 'precisionkit guard --out' wrote.") from None
    except UNREADABLE as error:
        whose = another_kind(file, "guard-plan")
        what = f"no {PLAN_SCHEMA} ({error})" if whose is None else f"no plan of a guard, but {whose}"
        raise UsageError(f"The file '{file}' is {what}: calibrate again with 'precisionkit guard --out'.") from None
    if not _is_consistent(plan):
        raise UsageError(f"The plan '{file}' contradicts itself, so it was changed: calibrate again with 'precisionkit guard --out'.")
    return plan


def _is_consistent(plan: GuardPlan) -> bool:
    """Whether what can be computed of a plan's numbers from its others is what it says."""
    n = plan.data.inputs
    if n < 1 or plan.fallen_back > n or plan.window > MOST_ROWS or count_of(plan.rows) != n:
        return False
    if plan.allowed != allowed_scores(n, plan.risk, plan.confidence):
        return False
    return plan.expected == expected_counts(plan.fallen_back, n, plan.allowed, plan.window, plan.false_alarm)


def load_guarded(path: str | Path, model: LoadedModel | nn.Module | Callable[[], nn.Module]) -> GuardedHalf:
    """Bring a plan and its network together.

    Parameters
    ----------
    path : str or Path
        What `save_guarded` wrote.
    model : LoadedModel, nn.Module or callable
        The network with its weights; for a folder, a callable may return one with any weights, which become those of the folder.

    Raises
    ------
    UsageError
        The plan belongs to another network, device or setting of torch's switches, or is damaged.
    UnusableModelError
        The folder's weights are damaged, or do not fit the network.
    """
    plan = read_plan(path)
    given = model.module if isinstance(model, LoadedModel) else model
    if isinstance(given, nn.Module):
        return GuardedHalf(given, plan)
    built = given()
    if Path(path).is_dir():
        _fill(built, Path(path) / WEIGHTS)
    device = torch.device(plan.device_type)
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UsageError(f"The plan was made on {plan.device}, and torch can use no GPU here: calibrate again on this device.")
    return GuardedHalf(built.to(device).eval().requires_grad_(False), plan)


def _fill(module: nn.Module, file: Path) -> None:
    try:
        module.load_state_dict(safetensors.torch.load(file.read_bytes()))
    except (OSError, safetensors.SafetensorError) as error:
        raise UnusableModelError(f"The weights '{file}' are missing or damaged ({error}): save the guarded model again.") from None
    except RuntimeError as error:
        text = " ".join(str(error).split())[:200]
        raise UnusableModelError(f"The weights '{file}' do not fit the network that was given ({text}): give theirs.") from None
