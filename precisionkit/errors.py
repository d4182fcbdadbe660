"""The errors that a user can cause, each a sentence that says what to do; and how text from files is shown in them."""


def first_line(error: BaseException) -> str:
    """First line of an error's text, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


class PrecisionKitError(Exception):
    """Base of every error that this package raises on purpose; its text is one complete message for the user."""


class UsageError(PrecisionKitError):
    """The options of a command or the arguments of a function contradict each other or name something unknown."""


class UnusableModelError(PrecisionKitError):
    """The model file is missing, damaged, unsafe, or does not fit the named architecture."""


class UnusableDataError(PrecisionKitError):
    """The data set is missing, damaged, or does not fit the model."""


class UnsupportedOperatorError(PrecisionKitError):
    """The captured program holds an operator, or a use of one, for which no error rule is known.

    Parameters
    ----------
    message : str
    node : str
        Name of the node in a file, where it is known.
    """

    def __init__(self, message: str, node: str = "") -> None:
        super().__init__(message)
        self.node = node


class InvalidOperatorError(PrecisionKitError):
    """A record of the user's own is incomplete, clashes with another, or says what the operator does not do."""


class UnsupportedArithmeticError(PrecisionKitError):
    """No error rule is known for the requested arithmetic."""


class ReportError(PrecisionKitError):
    """A report could not be written, or cannot be read."""


class RefutedError(PrecisionKitError):
    """A run left its proved enclosure: the device does not obey the arithmetic, or the toolkit has a bug."""


def shown(text: str, limit: int = 80) -> str:
    """Return text from a file such that it can be printed: no control characters, not endless."""
    safe = ascii(text)[1:-1]
    return safe if len(safe) <= limit else safe[: limit - 3] + "..."
