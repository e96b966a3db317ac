"""``python -m drexcache.cli`` is the command ``drexcache``."""

import sys

if not sys.flags.safe_path:
    del sys.path[0]  # the current folder, which -m puts there; PYTHONPATH=. is the way to ask for it

from drexcache.cli import main

main(prog_name="drexcache")
