#!/usr/bin/python3
# SPDX-License-Identifier: Apache-2.0
"""forward.py PORT ADDRESS:PORT NETNS: makes the API server reachable on this machine's loopback.

It listens on 127.0.0.1:PORT, then moves into the network namespace of node 1 and dials from there.
node.py starts it in the node's process namespace: it ends with the node.
"""
import asyncio
import ctypes
import os
import socket
import sys

CLONE_NEWNET = 0x40000000


async def pipe(reader, writer):
    try:
        while True:
            data = await reader.read(1 << 16)
            if not data:
                break
            writer.write(data)
            await writer.drain()
        writer.write_eof()
    except OSError:
        writer.close()


async def serve(listener, host, port):
    async def accept(reader, writer):
        try:
            there = await asyncio.open_connection(host, port)
        except OSError:
            writer.transport.abort()  # as refused as it can still be
            return
        await asyncio.gather(pipe(reader, there[1]), pipe(there[0], writer))
        for w in (writer, there[1]):
            w.close()
    server = await asyncio.start_server(accept, sock=listener)
    await server.serve_forever()


def main():
    port, target, netns = sys.argv[1:]
    host, target_port = target.rsplit(":", 1)
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(64)
    fd = os.open(netns, os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(fd, CLONE_NEWNET) != 0:
        raise SystemExit("forward: setns: " + os.strerror(ctypes.get_errno()))
    asyncio.run(serve(listener, host, int(target_port)))


if __name__ == "__main__":
    main()
