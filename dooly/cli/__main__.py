"""``python -m dooly.cli``, the same as the installed ``dooly``."""

import sys

from dooly.cli import main

if __name__ == "__main__":
    sys.exit(main())
