"""The HTTP API over the other apps: the same services, roles and blindness as the pages."""
