"""What auditor and host exchange: one request, one signed response. Pure."""
