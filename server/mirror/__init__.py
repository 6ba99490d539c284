"""The ledger mirrored into other tools: they show what it says and are never asked.

The ledger is the outbox: what happened is a leaf, committed in the transaction that made it true.
`outbox` reads it from a durable place on, `mlflow` says it to an MLflow server, `differences`
what was changed there.
"""
