"""Staff's view of backends, of what they serve at which price, and of what became of asking them."""

from gateway.admin import attempts, backends, route_prices, routes

__all__ = ["attempts", "backends", "route_prices", "routes"]
