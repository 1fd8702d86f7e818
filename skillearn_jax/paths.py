"""Floor 0: paths as users type them, and folders named after what is in them."""

import os
import pathlib
import re


def user_path(text: str | os.PathLike[str]) -> pathlib.Path:
    """Returns a path, whose leading `~` is the home folder.

    Shells leave the `~` of `--flag=~/runs` to the program. One that names no user stays as
    it is, to be met as a path that is not there.
    """
    return pathlib.Path(os.path.expanduser(text))


def folder_name(name: str) -> str:
    """Returns the name of the folder of a network or a task; two may have the same."""
    return re.sub(r"[^\w.-]", "_", name)
