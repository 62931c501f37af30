"""What `make bench-stream` is made of: a broker, models, records, readers and their measurements."""
