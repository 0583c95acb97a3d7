"""Policy server: several protocols on one port, requests batched across clients."""

from e0_lightning.serving.batching import BatchingConfig
from e0_lightning.serving.limits import ServerLimits
from e0_lightning.serving.model_server import model_server
from e0_lightning.serving.server import Server, serve

__all__ = ["BatchingConfig", "Server", "ServerLimits", "model_server", "serve"]
