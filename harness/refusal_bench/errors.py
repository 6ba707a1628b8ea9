"""Every error that refusal-bench raises on purpose, and the exit code each ends with.

RefusalBenchError            1   a check or validation failed
├── InputError               2   bad usage or bad input: one sentence, with file and line where there is one
├── IncompleteRunError       3   the run could not finish; what is done is kept and resumes
└── NotComparableError       4   two records that must not be compared, with the reasons
"""


class RefusalBenchError(Exception):
    """A check or validation failed."""

    exit_code = 1


class InputError(RefusalBenchError):
    """Bad usage or bad input; the message is one sentence that names the file, the line and the remedy."""

    exit_code = 2


class IncompleteRunError(RefusalBenchError):
    """The run could not finish; finished stages are kept and the same command resumes."""

    exit_code = 3


class NotComparableError(RefusalBenchError):
    """Two records that must not be compared, with the reasons."""

    exit_code = 4


def first_line(error: Exception) -> str:
    """Return the first line of a library's message, without its full stop, to be put into a sentence of ours."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
