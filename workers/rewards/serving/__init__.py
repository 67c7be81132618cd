"""A reward server: one process that holds a model and answers over HTTP."""
