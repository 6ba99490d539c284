"""The agent on a device: lets out nothing but what the device's own policy allows.

It needs numpy, cryptography, rfc8785, grpcio, protobuf and onnxruntime; no torch, no Flower.

* `home`, `enrol`: who the device is and whom it trusts; `config`, `policy`: what its owner set.
* `member`: what it answers to each leg of a round, whatever the transport.
* `steps`, `runtime`, `data`: DP-SGD by an exported graph.
* `agent`, `link`, `blobs`, `peers`: the stream to the gateway, and what came over it.
* `command`: ``tacit-edge``.
"""
