"""An EasyNetwork echo server on a free port; its first line of output names the port.

usage: easynetwork_server.py HOST
"""

import sys
import threading

from easynetwork.exceptions import DatagramProtocolParseError
from easynetwork.protocol import DatagramProtocol
from easynetwork.serializers import JSONSerializer
from easynetwork.servers import StandaloneUDPNetworkServer
from easynetwork.servers.handlers import AsyncDatagramRequestHandler, INETClientAttribute


class Echo(AsyncDatagramRequestHandler):
    async def handle(self, client):
        try:
            packet = yield
        except DatagramProtocolParseError:
            await client.send_packet({"error": "Invalid JSON", "code": "parse_error"})
            return
        address = client.extra(INETClientAttribute.remote_address)
        print(f"{address.host} sent {packet}", flush=True)
        await client.send_packet(packet)


def tell(server, up):
    if up.wait(20):
        print("port", server.get_addresses()[0].port, flush=True)


up = threading.Event()
with StandaloneUDPNetworkServer(sys.argv[1], 0, DatagramProtocol(JSONSerializer()), Echo()) as server:
    threading.Thread(target=tell, args=(server, up), daemon=True).start()
    server.serve_forever(is_up_event=up)
