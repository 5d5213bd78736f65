"""Sources as preparation sees them: arrays, files, LMDBs, and what becomes of one picture."""
