"""The calls on networks."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.daemon.rpc import Context
from zonal.daemon.services import NetworkService
from zonal.network.networks import Network


class NetworkCalls:
    """Everything on networks."""

    def __init__(self, networks: NetworkService) -> None:
        self._networks = networks

    async def create(self, request: pb.CreateNetworkRequest, _context: Context) -> pb.Network:
        """A new one; its bridge is made with its first zone."""
        return self._message(
            self._networks.networks.create(
                request.name, subnets=request.subnets, internal=request.internal, labels=dict(request.labels)
            )
        )

    async def list(self, _request: pb.ListNetworksRequest, _context: Context) -> pb.ListNetworksReply:
        """All of them."""
        return pb.ListNetworksReply(networks=[self._message(each) for each in self._networks.networks.list()])

    async def inspect(self, request: pb.NetworkRef, _context: Context) -> pb.Network:
        """One of them."""
        return self._message(self._networks.networks.find(request.name))

    async def remove(self, request: pb.NetworkRef, _context: Context) -> pb.RemoveNetworkReply:
        """One that nobody uses, with its bridge."""
        await self._networks.remove_network(request.name)
        return pb.RemoveNetworkReply()

    def _message(self, network: Network) -> pb.Network:
        return pb.Network(
            name=network.name,
            subnets=network.subnets,
            gateways=network.gateways,
            internal=network.internal,
            labels=network.labels,
            created_ns=network.created_ns,
            bridge=network.bridge,
            source=network.source,
            zones=self._networks.users(network.name),
        )
