"""Port 3001: HTTP for page and health, WebSocket for signaling, told apart by the first request."""
