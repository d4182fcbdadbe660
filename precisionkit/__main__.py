"""``python -m precisionkit``."""

from precisionkit.cli import main

if __name__ == "__main__":
    main()
