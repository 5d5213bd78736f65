"""Sources as preparation sees them: arrays, encoded images in folders, archives and LMDBs."""
