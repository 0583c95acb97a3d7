"""Reports of an evaluation: tables, HTML, videos."""
