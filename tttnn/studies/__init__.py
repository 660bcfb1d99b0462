"""Studies: measurements that are no grids of test documents, each a module of functions that return tables."""
