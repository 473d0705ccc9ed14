"""`python -m d2ue` and the command `d2ue`: Ctrl-C ends in a sentence from the first moment on."""

import os
import signal

from d2ue.errors import INTERRUPTED


def main() -> None:
    """Entry point: load what the commands need, then run the one that was asked for."""

    def leave(number: int, frame: object) -> None:
        # Not an exception: half-loaded libraries turn those into errors of their own.
        os.write(2, b"d2ue: interrupted before anything was begun.\n")
        os._exit(INTERRUPTED)

    before = signal.signal(signal.SIGINT, leave)
    from d2ue.cli.app import main as run

    signal.signal(signal.SIGINT, before)
    run()


if __name__ == "__main__":
    main()
