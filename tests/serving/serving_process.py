"""A server in a process of its own, to be sent signals: prints its port, then serves."""

import asyncio
import sys

from serving_world import Teller

from e0_lightning.serving import Limits, Server

server = Server(Teller(seconds=float(sys.argv[1])), limits=Limits(max_batch=2, max_wait=0.01))
asyncio.run(server.run("127.0.0.1", 0, lambda port: print(port, flush=True)))
