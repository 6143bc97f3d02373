"""What a run leaves behind, read back and shown: tables for terminal and Markdown, and one HTML page."""
