"""Tables in: read, understood, divided and encoded. Nothing here needs pandas or torch."""
