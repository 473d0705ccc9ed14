"""`python -m d2ue` is `d2ue`."""

from d2ue.cli.app import main

if __name__ == "__main__":
    main()
