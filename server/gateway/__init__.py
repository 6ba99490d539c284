"""The gateway: a Flower `Grid` whose nodes are devices on `tacit.edge.v1` over gRPC.

`grid.opened` starts it in a thread and gives the `GatewayGrid` that the coordinator talks to;
`settings` has its limits; `devices` and `authority` are what it keeps in a home. The wire
specification is `docs/edge_protocol.md`.
"""
