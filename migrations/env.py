"""Alembic's entry point: runs the migrations on the connection that `migrations.runner` opened."""

from alembic import context

connection = context.config.attributes.get("connection")
if connection is None:
    raise RuntimeError("run migrations with `kasbah migrate`: they need its connection, timeouts and lock")

context.configure(connection=connection, target_metadata=None, transaction_per_migration=True)
with context.begin_transaction():
    context.run_migrations()
