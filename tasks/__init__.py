"""Tasks: what is learned, from whose data, and how it is scored.

`task` defines what a task is and finds it by name; `digits` and `fashion` are built in;
`partition` splits pooled data into simulated clients; `models` has small networks;
`vector` maps a model to the flat vector that is clipped, noised and averaged.
"""
