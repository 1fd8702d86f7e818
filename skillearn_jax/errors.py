"""Floor 0: the errors that a user is expected to meet."""


class InputError(ValueError):
    """A mistake in what the user gave: a config value, a data file, a program.

    The message is one line that names the value, what is allowed and, where there is
    one, the flag to change. The command line prints it and exits with code 2.
    """


class NonFiniteError(ArithmeticError):
    """A loss or a gradient norm became NaN or infinite.

    The message is one line that names the step and the term. The command line prints it
    and exits with code 3; the last checkpoint is that of the epoch before.
    """


class MissingProcessError(RuntimeError):
    """A process of the run has not come in time; the message says which."""


class StorageError(OSError):
    """The disk is full, or does not let the run write.

    The message is one line that names the file and the reason. The command line prints it
    and exits with code 4; what was written before is as it was.
    """


class Interrupted(KeyboardInterrupt):
    """A signal asked a run to end; its state is saved.

    Attributes:
        signal: the number of the signal; the command line exits with 128 + it.
    """

    def __init__(self, message: str, signal: int) -> None:
        """Notes the message, one line, and the signal."""
        super().__init__(message)
        self.signal = signal
