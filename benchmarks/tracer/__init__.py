"""What being seen costs: the progress page and probes in the library, and a tracer that looks on."""
