"""Schema of the database, as Alembic migrations; `migrations.runner` applies them."""
