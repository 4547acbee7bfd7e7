"""What holds for all tests: hypothesis asserts no times, since machines are shared."""

from hypothesis import HealthCheck, settings

settings.register_profile("zonal", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("zonal")
