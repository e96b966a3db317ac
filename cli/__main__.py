"""Makes ``python -m drexcache.cli`` run the command ``drexcache``."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder, which -m adds; use PYTHONPATH=. to get it back

from drexcache.cli import main

main(prog_name="drexcache")
