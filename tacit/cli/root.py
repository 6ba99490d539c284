"""The root command and its groups; each command imports what it needs when it runs."""

from __future__ import annotations

import typer

from tacit.cli import (
    access,
    api,
    audit,
    backup,
    clients,
    deploy,
    devices,
    erase,
    explain,
    gate,
    ledger,
    mirror,
    models,
    plan,
    retrain,
    rollout,
    runs,
    score,
    serve,
    simulate,
    withdraw,
)

app = typer.Typer(
    help="Federated learning with differential privacy.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
app.command("simulate")(simulate.simulate)
app.command("serve")(serve.serve)
app.command("plan")(plan.plan)
app.command("retrain")(retrain.retrain)
app.command("rollout")(rollout.rollout)
app.command("explain")(explain.explain)
app.command("score")(score.score)
app.command("withdraw")(withdraw.withdraw)
app.command("client-ledger")(clients.client_ledger)
app.command("backup")(backup.backup)
app.command("restore")(backup.restore)
ledger.app.command("restored")(backup.restored)
app.add_typer(access.app, name="access")
app.add_typer(api.app, name="api")
app.add_typer(audit.app, name="audit")
app.add_typer(deploy.app, name="deploy")
app.add_typer(devices.app, name="devices")
app.add_typer(gate.app, name="gate")
app.add_typer(erase.app, name="erase")
app.add_typer(ledger.app, name="ledger")
app.add_typer(mirror.app, name="mirror")
app.add_typer(models.app, name="models")
app.add_typer(runs.app, name="runs")
