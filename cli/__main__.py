"""``python -m drexcache.cli`` is the command ``drexcache``."""

from drexcache.cli import main

main(prog_name="drexcache")
