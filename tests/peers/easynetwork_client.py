"""An EasyNetwork client: sends each line of standard input as a JSON packet, prints the packet and its reply.

usage: easynetwork_client.py HOST PORT
"""

import json
import sys

from easynetwork.clients import UDPNetworkClient
from easynetwork.protocol import DatagramProtocol
from easynetwork.serializers import JSONSerializer

with UDPNetworkClient((sys.argv[1], int(sys.argv[2])), DatagramProtocol(JSONSerializer())) as client:
    for line in sys.stdin:
        packet = json.loads(line)
        client.send_packet(packet)
        reply = client.recv_packet(timeout=20)
        if len(line) < 200:
            print(f"Sent:     {json.dumps(packet)}")
            print(f"Received: {json.dumps(reply)}")
        print("equal" if reply == packet else "different")
