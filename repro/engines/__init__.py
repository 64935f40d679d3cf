"""Where a job directory executes; one file each. Engines know no records."""
