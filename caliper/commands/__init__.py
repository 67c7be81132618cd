"""What `caliper` does, a file a subject: parse, call the client, print."""
