"""`python -m gateway.cli` is `securegw`."""

from gateway.cli.main import main

main()
