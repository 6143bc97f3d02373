"""What every service needs: logs, HTTP endpoints for probes and metrics, and an orderly end."""
