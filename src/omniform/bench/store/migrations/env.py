"""Called by alembic, with a connection that :mod:`omniform.bench.store.schema` has opened and locked."""

from alembic import context

from omniform.bench.store.schema import VERSION_TABLE
from omniform.bench.store.tables import Base

context.configure(
    connection=context.config.attributes["connection"], target_metadata=Base.metadata, version_table=VERSION_TABLE
)
with context.begin_transaction():
    context.run_migrations()
