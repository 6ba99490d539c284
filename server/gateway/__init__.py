"""The gateway: a Flower `Grid` whose nodes are devices on `tacit.edge.v1` over gRPC."""
