"""Floor 0: the one error that a user is expected to meet."""


class InputError(ValueError):
    """A mistake in what the user gave: a config value, a data file, a program.

    The message is one line that names the value, what is allowed and, where there is
    one, the flag to change. The command line prints it and exits with code 2.
    """
