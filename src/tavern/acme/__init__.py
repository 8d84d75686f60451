"""Certificates from an authority (RFC 8555): got, kept with the data, and renewed while the server runs."""
