"""``python -m repro`` is ``repro``."""

from repro.cli.main import main

main()
