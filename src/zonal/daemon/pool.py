"""The calls on the pool of booted zones."""

from __future__ import annotations

from zonal.api import control_pb2 as pb
from zonal.daemon.resources import resource_change, resources_message
from zonal.daemon.rpc import Context
from zonal.zones.pool_plan import PoolPlan, PoolSize
from zonal.zones.resources import Resources
from zonal.zones.spec import ZoneService


class PoolCalls:
    """See the module."""

    def __init__(self, zones: ZoneService) -> None:
        self._zones = zones

    async def get(self, _request: pb.GetPoolRequest, _context: Context) -> pb.Pool:
        """What there is."""
        pool = self._zones.pool
        warm = list(pool.warm)
        return pb.Pool(
            sizes=[
                pb.PoolSize(
                    resources=resources_message(size.resources), count=size.count, ready=warm.count(size.resources)
                )
                for size in pool.plan.sizes
            ],
            budget_bytes=pool.plan.budget,
            taken=pool.counts.taken,
            missed=pool.counts.missed,
            lost=pool.counts.lost,
        )

    async def set(self, request: pb.Pool, context: Context) -> pb.Pool:
        """What there is to be."""
        sizes: dict[Resources, int] = {}
        for size in request.sizes:
            resources = resource_change(size.resources).of(Resources())
            sizes[resources] = sizes.get(resources, 0) + size.count
        plan = PoolPlan(tuple(PoolSize(*each) for each in sizes.items()), request.budget_bytes)
        await self._zones.set_pool(plan)
        return await self.get(pb.GetPoolRequest(), context)
