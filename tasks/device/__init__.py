"""A task's step as one ONNX graph, for a device that runs onnxruntime and no torch.

`graph` exports it and `evaluation` the scores of a federated evaluation, both by `tracing`;
`decompositions` are the backward passes that ONNX lacks, `operators` the allow-list, `check`
runs a step beside Opacus, and `bundle` makes all that a device needs of a run. They need
`tacit[device]`; what a device reads is in `tacit.protocol`: `manifest` and `document`.
"""
