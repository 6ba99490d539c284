"""A task's step as one ONNX graph, for a device that runs onnxruntime and no torch.

`graph` exports it, `decompositions` are the backward passes that ONNX lacks, `check` runs it
beside Opacus, and `manifest` is what is signed. All but `manifest` need `tacit[device]`.
"""
