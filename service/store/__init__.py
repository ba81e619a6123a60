"""What outlives a process: a database of rows and a folder of blobs."""
