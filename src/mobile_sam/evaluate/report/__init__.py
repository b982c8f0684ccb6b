"""Reports of an evaluation: tables for the terminal and for documents, JSON, CSV, and one HTML page with plots."""
