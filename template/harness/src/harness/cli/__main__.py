"""``python -m harness.cli``: the same as `pilot`."""

from harness.cli import main

if __name__ == "__main__":
    main()
