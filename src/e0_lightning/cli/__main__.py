"""``python -m e0_lightning.cli`` is ``lightning``, also for processes that Lightning launches."""

from e0_lightning.cli.lightning_cli import main

main()
