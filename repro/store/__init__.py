"""The only owner of the disk and of sqlite3: records, journal, objects, captured code, index, verification."""
