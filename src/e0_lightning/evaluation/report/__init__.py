"""Reports of an evaluation: tables, HTML page, videos."""
