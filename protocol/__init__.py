"""What devices and the gateway say to each other: `tacit.edge.v1`, and what is signed in it.

`edge.proto` is the protocol; `edge_pb2` and `edge_pb2_grpc` are made from it by
`make protocol`; `statements` is what its signatures cover; `manifest` is what a device must
know of a graph, `document` the run document that it trains by, and `folder` the files of
`tacit models export --device`. Needs neither torch nor flwr; the wire specification is
`docs/edge_protocol.md`.
"""
