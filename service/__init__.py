"""The service around the engine: HTTP, jobs, storage, processes."""
