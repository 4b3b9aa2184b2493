"""The errors that a user can cause, each with the exit code its command ends with.

Everything else that is raised is a defect of this package and keeps its traceback.
"""


def cause(error: BaseException) -> str:
    """An error's first line, or its kind where it says nothing, as torch's about an empty file."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def shown(value: object) -> str:
    """A value of a file for a message: as Python writes it, but no longer than a line."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # deeply nested; an integer of more digits than Python writes
        text = f"a huge {type(value).__name__}"
    return text if len(text) <= 100 else f"{text[:60]}...{text[-20:]}"


def disk_fault(error: BaseException) -> str:
    """Why a write with ``torch.save`` failed; it turns a full disk into a RuntimeError of its own."""
    origin = error if isinstance(error, OSError) else error.__context__ or error
    return str(getattr(origin, "strerror", origin))


class VintixFastError(Exception):
    """Something went wrong that the message explains and the user can act on."""

    exit_code = 1


class UsageError(VintixFastError):
    """An option or argument is wrong: a value out of range, an unknown name, options that exclude each other."""

    exit_code = 2


class InputFileError(VintixFastError):
    """A file or directory that was given is missing, unreadable or broken."""

    exit_code = 4


class Interrupted(VintixFastError):
    """The user asked to stop (Ctrl-C); what was done so far is on disk."""

    exit_code = 130
