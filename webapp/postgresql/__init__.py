"""Django's PostgreSQL backend, safe behind a pooler that lends a server connection for one transaction."""
