"""Serving: wire formats, routes, gRPC; one path under all of them."""
