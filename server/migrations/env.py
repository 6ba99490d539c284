"""Alembic's environment: migrates the connection that `tacit.server.store` hands over."""

from alembic import context

from tacit.server.tables import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    transactional_ddl=True,
    transaction_per_migration=False,
)
with context.begin_transaction():
    context.run_migrations()
