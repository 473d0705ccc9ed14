"""The errors a person meets: one sentence that says what is wrong, where, and what to do."""

from __future__ import annotations

INTERRUPTED = 130  # the exit code that shells give to Ctrl-C


class D2UEError(Exception):
    """Base of every error this package raises on purpose; its text is one sentence for a person."""


class InputError(D2UEError, ValueError):
    """Something given to the package is not usable: a folder, an image, an option, a saved run."""


class DamagedError(InputError):
    """A file does not hold what was written."""


class DivergedError(D2UEError, RuntimeError):
    """The training loss of at least one learner became NaN or infinite."""
