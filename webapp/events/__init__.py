"""What happened in a project, told to whoever asked to be told: webhooks and their deliveries."""
