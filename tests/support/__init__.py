"""What tests share: paths, servers, databases, running services."""
