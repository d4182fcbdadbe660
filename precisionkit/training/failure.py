"""Why training broke: the first operator and tensor, and repairs."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec

from precisionkit.training.epsilon import analyse_settings
from precisionkit.training.events import Event
from precisionkit.training.repairs import HORIZON, Repair, Trials, first_broken, observe_until_broken, repairs
from precisionkit.training.run import DivergedError
from precisionkit.training.train import Job

_FROM_START = 500
"""Steps up to which a run is done again from its start; beyond, from its last checkpoint, which may hold what is damaged."""


class Failure(msgspec.Struct, frozen=True, kw_only=True):
    """How training broke.

    Attributes
    ----------
    epoch, step : int
        Counted from 1: the step in which the first number was no longer finite.
    noticed : str
        What was noticed, and when.
    event : Event or None
        The first operator with finite operands and a result that is not; None where doing the steps again did not show it.
    lost : tuple of Event
        Signal that was lost before it, in the same step or the one before.
    explanation : str
        What exact arithmetic says of the optimizer's epsilon, where it has one and it matters.
    repairs : tuple of Repair
    """

    epoch: int
    step: int
    noticed: str
    event: Event | None
    lost: tuple[Event, ...]
    explanation: str
    repairs: tuple[Repair, ...]

    def describe(self) -> list[str]:
        """Say it in sentences."""
        said = [] if self.event is None else [f"First in step {self.step} of epoch {self.epoch}: {self.event.describe()}."]
        said += [f"Before it: {event.describe()}." for event in self.lost[:1]]
        said += [self.explanation] if self.explanation else []
        said += [
            f"Repaired by {one.option}, for {HORIZON} more steps ({one.kind}, {one.tried} tried)." for one in self.repairs if one.works
        ]
        said += [f"No {one.kind} of {one.tried} that were tried repairs it." for one in self.repairs if not one.works and one.tried]
        return said


def find_failure(job: Job, folder: Path, error: DivergedError, on_trial: Callable[[str], None] = lambda option: None) -> Failure:
    """Do the steps before a failure again under observation, then try repairs.

    Parameters
    ----------
    job, folder : Job, Path
        Of the run that broke, by one process; its start is gone back to, or after many steps its last checkpoint.
    error : DivergedError
    on_trial : callable
        Told the options that are tried.
    """
    trials = Trials(job, folder if error.number > _FROM_START else None, on_trial)
    broke = first_broken(trials.start({}), error)
    training = trials.start({})
    seen = observe_until_broken(training, broke - 1)
    first = next((place for place, (_, event) in enumerate(seen) if event.fatal), len(seen))
    number, event = seen[first] if first < len(seen) else (broke, None)
    analysis = analyse_settings(job.settings) if job.settings.formats.pure_half else None
    return Failure(
        epoch=number // training.steps + 1,
        step=number % training.steps + 1,
        noticed=str(error),
        event=event,
        lost=tuple(one for _, one in seen[:first]),
        explanation=analysis.describe() if analysis is not None and analysis.amplification > 1 else "",
        repairs=tuple(repairs(trials, broke, event, lost=first > 0 or event is None)),
    )
